"""Whether a model holds numbers: NaN and infinity in a weight spoil all that is made of it."""

import torch
from torch import nn


def not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter with NaN or infinite values; None when there is none.

    Parameters without values (meta device), and those that hold integers, are passed over.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            continue
        # isfinite knows no 8-bit floats.
        values = parameter.detach().float() if parameter.itemsize == 1 else parameter.detach()
        if not bool(torch.isfinite(values).all()):
            return name
    return None
