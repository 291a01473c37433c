"""Rules of operators that look elements up by position or by value.

Where the value of one tensor is a position in another one, that position has a meaning: token 7 is
row 7 of the embedding. Such axes freeze, because removing elements would shift the positions.
"""

from typing import Any

import torch

from gacfx.coupling.rules import Call, NotFollowed, Value, replaced, rule
from gacfx.coupling.terms import Axes, Term, freeze
from gacfx.graph.weights import constant


@rule("embedding")
def embedding(call: Call, weight: Axes, indices: Axes, *_: Any) -> Axes:
    """Rows of a table."""
    freeze(weight[:1], "indexed by embedding")
    return (*indices, weight[1])


@rule("index")
def index(call: Call, x: Axes, indices: list[Axes | None]) -> Axes:
    """``x[i, j]``: the indexed axes, next to each other, give way to those of the indices.

    One axis by constants in a row, ``x[.., [-2], :]``, is a slice of it: what lies between it and
    the end that the constants count from stays as long as it is.
    """
    used = [at for at, axes in enumerate(indices) if axes is not None]
    if (part := _in_a_row(call, used, x)) is not None:
        low, count, from_end = part
        sizes = (low, count, x[used[0]].size - low - count)
        before, own, after = call.terms.split(x[used[0]], sizes)
        freeze((own, after if from_end else before), "indexed")
        return replaced(x, used[0], own)
    if used != list(range(used[0], used[-1] + 1)):
        raise NotFollowed("indexed axes that are not neighbours")
    freeze((x[at] for at in used), "indexed")
    middle = call.terms.broadcast(*(axes for axes in indices if axes is not None))
    return (*x[: used[0]], *middle, *x[used[-1] + 1 :])


def _in_a_row(call: Call, used: list[int], x: Axes) -> tuple[int, int, bool] | None:
    """(first, how many, counted from the end) of the positions along the one axis that is indexed;
    None where they are not known, or not one after the other."""
    given = call.node.args[1]
    if len(used) != 1 or not isinstance(given, list | tuple):
        return None
    found = constant(given[used[0]])
    if found is None or found.ndim != 1 or found.dtype != torch.long or not len(found):
        return None
    first, count, size = int(found[0]), len(found), x[used[0]].size
    at = range(first, first + count)
    if found.tolist() != list(at) or not (0 <= first <= size - count or -size <= first <= -count):
        return None
    return first % size, count, first < 0


@rule("index_put")
def index_put(call: Call, x: Axes, indices: list[Axes | None], values: Axes, *_: Any) -> Axes:
    """``x[i, j] = values``."""
    call.terms.broadcast(index(call, x, indices), values)
    return x


@rule("index_select")
def index_select(call: Call, x: Axes, dim: int, index: Axes) -> Axes:
    """Elements of x along ``dim``, wherever the index has them."""
    freeze([x[dim]], "indexed by index_select")
    return replaced(x, dim, *index)


@rule("gather")
def gather(call: Call, x: Axes, dim: int, index: Axes, **_: Any) -> Axes:
    """Elements of x along ``dim``, in the shape of the index."""
    freeze([x[dim]], "indexed by gather")
    _align(call, x, index, dim)
    return index


@rule("scatter")
def scatter(call: Call, x: Axes, dim: int, index: Axes, source: Axes | float, **_: Any) -> Axes:
    """x with elements along ``dim`` overwritten by ``source``."""
    freeze([x[dim]], "indexed by scatter")
    _align(call, x, index, dim)
    if isinstance(source, tuple):
        _align(call, source, index, None)
    return x


def _align(call: Call, x: Axes, index: Axes, skip: int | None) -> None:
    """Tie the axes of x and index; an index that covers x only in part freezes that axis."""
    for at, (mine, other) in enumerate(zip(x, index, strict=True)):
        if skip is not None and at == skip % len(x):
            continue
        if mine.size == other.size:
            call.terms.unify(mine, other)
        else:
            freeze([mine, other], "indexed in part")


@rule("topk")
def topk(call: Call, x: Axes, k: int, dim: int = -1, *_: Any) -> Value:
    """The largest elements: how many there are is written in the graph."""
    freeze([x[dim]], "topk")
    out = replaced(x, dim, Term(k, "topk"))
    return [out, out]


@rule("sort")
def sort(call: Call, x: Axes, dim: int = -1, *_: Any, **__: Any) -> Value:
    """The same sizes in another order: positions are lost."""
    freeze([x[dim]], "sorted")
    out = replaced(x, dim, Term(x[dim].size, "sorted"))
    return [out, out]


@rule("histc")
def histogram(call: Call, x: Axes, *_: Any) -> Value:
    """Counts: the number of bins is written in the graph."""
    freeze(x, "counted by histc")
    return call.fresh("counted by histc")


@rule("diff")
def diff(
    call: Call,
    x: Axes,
    n: int = 1,
    dim: int = -1,
    prepend: Axes | None = None,
    append: Axes | None = None,
) -> Axes:
    """Differences of neighbours along ``dim``."""
    for axes in (x, prepend, append):
        freeze([axes[dim]] if axes is not None else [], "differences")
    others = [replaced(axes, dim, Term(1)) for axes in (x, prepend, append) if axes is not None]
    return replaced(call.terms.broadcast(*others), dim, Term(call.shape[dim], "differences"))
