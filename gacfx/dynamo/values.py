"""Whether weights are still what a compiled graph was made of, asked before each of its calls.

Hashing a model takes seconds, so a digest is kept for as long as its tensor is the same object in
the same memory and no operator has written into it. What is written through ``tensor.data`` escapes
torch's count of writes, and this check as well.
"""

from collections.abc import Sequence
from typing import Any
from weakref import ref

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gacfx.core.statistics import weight_digest
from gacfx.errors import PlanMismatch


class Digests:
    """sha256 of tensors, each computed once."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> str:
        """As :func:`gacfx.core.statistics.weight_digest`."""
        state, known = _state(tensor), self._known.get(tensor)
        if known is None or known[0] != state:
            known = self._known[tensor] = (state, weight_digest(tensor))
        return str(known[1])


class Replaced:
    """The weights that a rewritten graph no longer reads, because a plan stands in their place."""

    def __init__(self, tensors: dict[int, tuple[str, Tensor]], digests: Digests) -> None:
        """
        Args:
            tensors: place in the call -> (name, tensor).
            digests: to compare by.
        """
        self._names = {at: name for at, (name, _) in tensors.items()}
        self._wanted = {at: digests.of(tensor) for at, (_, tensor) in tensors.items()}
        self._known = {at: (ref(t), _state(t)) for at, (_, t) in tensors.items()}
        self._digests = digests

    def check(self, call: Sequence[Any]) -> None:
        """Nothing when a call brings the same values for each of them.

        Raises:
            PlanMismatch: names the first one whose values are others.
        """
        for at, (known, state) in self._known.items():
            tensor, same = call[at], known() is call[at]
            if same and state == _state(tensor):
                continue
            if self._digests.of(tensor) != self._wanted[at]:
                raise PlanMismatch(
                    f"{self._names[at]}: the call brings other values than the graph was compiled "
                    "for. After a change of weights make a new plan; layers that are compiled one "
                    "by one share one graph, so compile the whole model, or put the plan into the "
                    "model (gacfx.apply_) and compile that"
                )
            self._known[at] = (ref(tensor), _state(tensor))


def _state(tensor: Tensor) -> tuple[int, int]:
    """Changes with every write that torch counts, and with the memory that the tensor is in."""
    return (-1 if tensor.is_inference() else tensor._version, tensor.data_ptr())
