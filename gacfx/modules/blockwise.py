"""Blocks of a model by themselves, in float64: what each gives for what it was really given.

A whole model in half precision hides small mistakes behind its rounding, and in float64 it may not
fit into memory; one block does.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of a block."""

    given: Tensor
    """Its hidden states, float64."""
    made: Tensor
    """Its first output, float64."""


def block_outputs(
    model: nn.Module,
    names: Iterable[str],
    inputs: Mapping[str, Any],
    given: Mapping[str, Seen] | None = None,
) -> dict[str, Seen]:
    """Name -> what a float64 copy of each block gives, while the model runs once.

    Args:
        model: in eval mode; left as it is.
        names: of blocks.
        inputs: keyword arguments of the model's forward.
        given: calls of the same blocks before, whose hidden states they get again.
    """
    seen: dict[str, Seen] = {}
    with torch.no_grad(), _listening(model, names, seen, given or {}):
        model(**inputs)
    return seen


def largest_difference(before: Mapping[str, Seen], after: Mapping[str, Seen]) -> tuple[float, str]:
    """(largest difference, as a share of the largest output of its block; that block)."""
    found = [(0.0, "")]
    for name, one in before.items():
        other = after[name]
        if one.made.shape != other.made.shape or not torch.isfinite(other.made).all():
            return float("inf"), name
        gap, size = (one.made - other.made).abs().max().item(), one.made.abs().max().item()
        found.append((gap / size if size else gap, name))
    return max(found)


@contextmanager
def _listening(
    model: nn.Module, names: Iterable[str], seen: dict[str, Seen], given: Mapping[str, Seen]
) -> Iterator[None]:
    def listen(name: str) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            args, kwargs = tree_map(_double, (args, kwargs))
            args, kwargs = _with_hidden(args, kwargs, given.get(name))
            made = next(t for t in tree_leaves(_alone(block)(*args, **kwargs)) if _floats(t))
            seen[name] = Seen(_hidden(args, kwargs), made)

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(listen(name), with_kwargs=True)
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _alone(block: nn.Module) -> nn.Module:
    """A copy in float64 that nobody listens to."""
    alone = copy.deepcopy(block)
    for module in alone.modules():
        module._forward_pre_hooks.clear()
        module._forward_pre_hooks_with_kwargs.clear()
    return alone.double()


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    found = args[0] if args else kwargs["hidden_states"]
    assert isinstance(found, Tensor)
    return found


def _with_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], seen: Seen | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with the hidden states of an earlier call."""
    if seen is None:
        return args, kwargs
    if args:
        return (seen.given, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": seen.given}


def _double(found: Any) -> Any:
    return found.double() if _floats(found) else found


def _floats(found: Any) -> bool:
    return isinstance(found, Tensor) and found.is_floating_point()
