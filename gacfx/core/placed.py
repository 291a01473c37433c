"""Parameters and buffers on another device or in another dtype for a while; theirs stay."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gacfx.core.quantized import is_plain, kind_of
from gacfx.errors import UnsupportedModel


@contextmanager
def placed_on(
    tensors: Iterable[Tensor], device: torch.device | None, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Inside, the tensors are copies of theirs on ``device``; what is changed there is lost.

    Args:
        tensors: parameters and buffers; one that comes twice is copied once.
        device: None for where they are.
        dtype: of the floating ones; None for their own. Nothing is copied where both are None.

    Raises:
        UnsupportedModel: one is no plain tensor, so that no copy can take its place.
    """
    if device is None and dtype is None:
        yield
        return
    tensors = list(tensors)
    if odd := next((kind_of(each) for each in tensors if not is_plain(each)), ""):
        raise UnsupportedModel(
            f"it holds {odd}, which cannot be somewhere else for a while; move the model itself"
        )
    own = {id(tensor): (tensor, tensor.data) for tensor in tensors}
    try:
        for tensor, data in own.values():
            kind = dtype if data.is_floating_point() else None
            tensor.data = data.to(device or data.device, kind or data.dtype, copy=True)
        yield
    finally:
        for tensor, data in own.values():
            tensor.data = data


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Its parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
