"""Whether a model holds numbers: NaN and infinity in a weight spoil all that is made of it."""

import torch
from torch import Tensor, nn

from gacfx.core.quantized import parts_of


def not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter with NaN or infinite values; None when there is none.

    Parameters without values (meta device), and those that hold integers, are passed over; of those
    that another program quantized, the scales count.
    """
    for name, parameter in model.named_parameters():
        if not all(map(_is_finite, parts_of(parameter))):
            return name
    return None


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    # isfinite knows no 8-bit floats.
    values = tensor.detach().float() if tensor.itemsize == 1 else tensor.detach()
    return bool(torch.isfinite(values).all())
