"""Rules of operators that look elements up by position or by value.

Where the value of one tensor is a position in another one, that position has a meaning: token 7 is
row 7 of the embedding. Such axes freeze, because removing elements would shift the positions.
"""

from typing import Any

from gacfx.coupling.rules import Call, NotFollowed, Value, replaced, rule
from gacfx.coupling.terms import Axes, Term, freeze


@rule("embedding")
def embedding(call: Call, weight: Axes, indices: Axes, *_: Any) -> Axes:
    """Rows of a table."""
    freeze(weight[:1], "indexed by embedding")
    return (*indices, weight[1])


@rule("index")
def index(call: Call, x: Axes, indices: list[Axes | None]) -> Axes:
    """``x[i, j]``: the indexed axes, next to each other, give way to those of the indices."""
    used = [at for at, axes in enumerate(indices) if axes is not None]
    if used != list(range(used[0], used[-1] + 1)):
        raise NotFollowed("indexed axes that are not neighbours")
    freeze((x[at] for at in used), "indexed")
    middle = call.terms.broadcast(*(axes for axes in indices if axes is not None))
    return (*x[: used[0]], *middle, *x[used[-1] + 1 :])


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
