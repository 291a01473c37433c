"""Values that depend on sizes alone, known while torch.export traces a model.

    positions = torch.arange(seq)            whatever the tokens are
    if positions.max() + 1 > 4096: ...       dynamic NTK: a branch, fixed at the captured length

torch.export computes no values, so such a branch would stop it. Here every small tensor that is
made of nothing but sizes and other such tensors is computed beside the trace, and a question about
one is answered.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

MOST = 2**16
"""Numbers of the largest tensor whose values are followed."""

_ASKS = (Tensor.__bool__, Tensor.__int__, Tensor.__index__, Tensor.item)
_MAKES = (torch.arange, torch.ones, torch.zeros, torch.full, torch.tensor)
_FAILED = object()


class KnownPositions(TorchFunctionMode):
    """Inside, whoever asks for the value of a tensor that is made of sizes alone is answered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Beside parameters and buffers, modules hold numbers such as the longest length so far.
        held = [each for module in model.modules() for each in vars(module).values()]
        self._known = {id(t): (t, t.clone()) for t in filter(_is_held, held)}
        """id of a traced tensor -> itself, so that the id stays its own, and its values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The call itself, and beside it the same call on the values where all are known."""
        options = kwargs or {}
        given = [each for each in tree_leaves((args, options)) if isinstance(each, Tensor)]
        if not (given or func in _MAKES) or not all(id(each) in self._known for each in given):
            made = func(*args, **options)
            self._forget(_written(made, given))
            return made
        if func in _ASKS and (answer := self._beside(func, args, options)) is not _FAILED:
            return answer
        made = func(*args, **options)
        written = _written(made, given)
        small = isinstance(made, FakeTensor) and _is_small(made)
        values = self._beside(func, args, options) if small or written else _FAILED
        if isinstance(values, Tensor) and values.shape == made.shape:
            self._known[id(made)] = (made, values)
        elif values is _FAILED:
            self._forget(written)
        return made

    def _beside(
        self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """The call on values, on the CPU; ``_FAILED`` where it fails."""

        def real(each: Any) -> Any:
            if isinstance(each, Tensor):
                return self._known[id(each)][1]
            return torch.device("cpu") if isinstance(each, torch.device) else each

        with _disable_current_modes():
            try:
                return func(*tree_map(real, args), **tree_map(real, options))
            except (RuntimeError, TypeError, ValueError, IndexError):
                return _FAILED

    def _forget(self, written: list[Tensor]) -> None:
        """Memory that was written into by what nobody knows is not known any more, in any view."""
        for storage in map(_storage, written):
            kept = {key: each for key, each in self._known.items() if _storage(each[0]) != storage}
            self._known = kept


def _is_held(value: object) -> TypeGuard[Tensor]:
    """A tensor with values and memory of its own."""
    return isinstance(value, Tensor) and not value.is_meta and value.layout is torch.strided


def _written(made: object, given: list[Tensor]) -> list[Tensor]:
    """The tensor that a call changed in place: it gives that, or nothing."""
    return given[:1] if made is None else [each for each in given if each is made][:1]


def _storage(tensor: Tensor) -> int:
    """Equal for views of the same memory."""
    return int(tensor.untyped_storage()._cdata)


def _is_small(tensor: Tensor) -> bool:
    return all(type(n) is int for n in tensor.shape) and tensor.numel() <= MOST
