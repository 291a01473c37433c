"""Parameters and buffers on another device for a while; where they were, they stay."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def placed_on(tensors: Iterable[Tensor], device: torch.device | None) -> Iterator[None]:
    """Inside, the tensors are copies of theirs on ``device``; what is changed there is lost.

    Args:
        tensors: parameters and buffers; one that comes twice is copied once.
        device: None to do nothing.
    """
    if device is None:
        yield
        return
    own = {id(tensor): (tensor, tensor.data) for tensor in tensors}
    try:
        for tensor, data in own.values():
            tensor.data = data.to(device, copy=True)
        yield
    finally:
        for tensor, data in own.values():
            tensor.data = data


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Its parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
