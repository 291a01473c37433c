"""Sizes that a graph leaves open, as numbers that analyses can count with.

    x [s0, s1, 4096]   ->   [1009, 10007, 4096]

Each symbol of a graph stands for a prime of its own, so that no product of open sizes is mistaken
for a size of the model. Asking torch for the size instead would fix it: the graph would from then
on be one for that size alone. Of sizes that depend on data (unbacked symbols) nothing is known.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import SymInt
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

_PRIMES = (1009, 10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091, 10093, 10099)
_CHOSEN: "WeakKeyDictionary[object, dict[object, int]]" = WeakKeyDictionary()
"""World of symbols (a ShapeEnv) -> its symbols, in order of first sight."""


def numbers(sizes: Sequence[int | SymInt]) -> tuple[int, ...] | None:
    """A shape as numbers; None where one of its sizes depends on data."""
    if all(type(size) is int for size in sizes):
        return tuple(map(int, sizes))
    if any(isinstance(size, SymInt) and free_unbacked_symbols(size) for size in sizes):
        return None
    return tuple(map(concrete, sizes))


def concrete(size: int | SymInt) -> int:
    """A size as a number: itself, or what its expression is of the primes of its symbols."""
    if not isinstance(size, SymInt):
        return int(size)
    node = size.node
    if node.constant is not None:
        return int(node.constant)
    chosen = _CHOSEN.setdefault(node.shape_env, {})
    expression = node.expr
    for symbol in sorted(expression.free_symbols, key=str):
        chosen.setdefault(symbol, _prime(len(chosen)))
    return int(expression.subs({s: chosen[s] for s in expression.free_symbols}))


def hint(size: int | SymInt) -> int:
    """The size that the graph was traced with; the number of ``concrete`` where there was none."""
    if not isinstance(size, SymInt):
        return int(size)
    found = size.node.hint if size.node.has_hint() else None
    return concrete(size) if found is None else int(found)


def _prime(number: int) -> int:
    """One for each number; those of the table first."""
    if number < len(_PRIMES):
        return _PRIMES[number]
    at = _prime(number - 1) + 2
    while any(at % low == 0 for low in range(3, int(at**0.5) + 1, 2)):
        at += 2
    return at
