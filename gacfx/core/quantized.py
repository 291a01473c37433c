"""Weights that another program holds as something else than numbers of the model."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def held_otherwise(model: nn.Module) -> dict[str, str]:
    """Parameter -> what holds it, ``Int8Tensor of torchao``; those that are plain are not named."""
    return {name: kind_of(p) for name, p in model.named_parameters() if not is_plain(p)}


def is_plain(tensor: Any) -> bool:
    """It holds its own numbers, and not other tensors."""
    return not is_traceable_wrapper_subclass(tensor)


def kind_of(tensor: Tensor) -> str:
    """``Int8Tensor of torchao``."""
    return f"{type(tensor).__name__} of {type(tensor).__module__.partition('.')[0]}"


def held_text(model: nn.Module) -> str:
    """How weights are held, for a person: ``15 of 21 as Int8Tensor of torchao``; or empty."""
    found, whole = Counter(held_otherwise(model).values()), len(list(model.parameters()))
    return ", ".join(f"{number} of {whole} as {kind}" for kind, number in sorted(found.items()))


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor is made of: codes and scales, or it alone."""
    if is_plain(tensor):
        yield tensor
        return
    wrapper: Any = tensor
    names, _ = wrapper.__tensor_flatten__()
    for name in names:
        yield from parts_of(getattr(wrapper, name))
