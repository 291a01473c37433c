"""Rules of operators that move, cut and join axes without computing anything."""

from typing import Any

from gacfx.coupling.rules import Call, NotFollowed, Value, replaced, rule
from gacfx.coupling.terms import Axes, Kind, Term, freeze, join


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten")
def view(call: Call, x: Axes, *_: Any) -> Axes:
    """Row-major refinement into products."""
    return tuple(call.terms.view(x, call.shape))


@rule("transpose")
def transpose(call: Call, x: Axes, dim0: int, dim1: int) -> Axes:
    """Two axes change places."""
    return replaced(replaced(x, dim0, x[dim1]), dim1, x[dim0])


@rule("t", "numpy_T")
def reverse(call: Call, x: Axes) -> Axes:
    """All axes in reverse order."""
    return x[::-1]


@rule("permute")
def permute(call: Call, x: Axes, dims: list[int]) -> Axes:
    """Axes in a new order."""
    return tuple(x[dim] for dim in dims)


@rule("unsqueeze")
def unsqueeze(call: Call, x: Axes, dim: int) -> Axes:
    """A new axis of size 1."""
    at = dim % (len(x) + 1)
    return (*x[:at], Term(1), *x[at:])


@rule("squeeze")
def squeeze(call: Call, x: Axes, *_: Any) -> Axes:
    """Axes of size 1 vanish; they are all alike, so the result's shape says enough."""
    rest = iter([term for term in x if term.size != 1])
    return tuple(Term(1) if size == 1 else next(rest) for size in call.shape)


@rule("expand", "broadcast_to")
def expand(call: Call, x: Axes, *_: Any, **__: Any) -> Axes:
    """An axis of size 1 becomes a new free axis: repeated values fit any size."""
    padded = (*(Term(1) for _ in range(len(call.shape) - len(x))), *x)
    pairs = zip(padded, call.shape, strict=True)
    return tuple(term if term.size == size else Term(size) for term, size in pairs)


@rule("repeat_interleave")
def repeat_interleave(call: Call, x: Axes, repeats: int, dim: int, **_: Any) -> Axes:
    """Every element ``repeats`` times in a row."""
    if not isinstance(repeats, int):
        raise NotFollowed("numbers of repeats that are computed")
    return replaced(x, dim, join(Kind.PRODUCT, [x[dim], Term(repeats)]))


@rule("select")
def select(call: Call, x: Axes, dim: int, index: int) -> Axes:
    """One element of an axis, which thereby has a meaning of its own."""
    freeze([x[dim]], "indexed by select")
    return replaced(x, dim)


@rule("unbind")
def unbind(call: Call, x: Axes, dim: int = 0) -> Value:
    """As select, for every element of the axis."""
    freeze([x[dim]], "indexed by unbind")
    return [replaced(x, dim) for _ in call.shapes]


@rule("slice")
def slice_(
    call: Call,
    x: Axes,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Axes:
    """One part of a concatenation; with a step, one column of a product."""
    total = x[dim].size
    low, high, step = slice(start, end, step).indices(total)
    high = max(low, high)
    if step == 1:
        sizes = (low, high - low, total - high)
        return replaced(x, dim, call.terms.split(x[dim], sizes)[1])
    if low < step and high == total and total % step == 0:
        # The interleaved rotary layout: pairs (x0, x1), (x2, x3), ..., one column at a time.
        rows, columns = call.terms.view([x[dim]], (total // step, step))
        freeze([columns], "strided slice")
        return replaced(x, dim, rows)
    freeze([x[dim]], "strided slice")
    return replaced(x, dim, Term(len(range(low, high, step)), "strided slice"))


@rule("split", "split_with_sizes", "chunk")
def split(call: Call, x: Axes, _: Any, dim: int = 0) -> Value:
    """Consecutive parts of an axis."""
    sizes = [shape[dim] for shape in call.shapes if shape is not None]
    return [replaced(x, dim, part) for part in call.terms.split(x[dim], sizes)]


@rule("cat", "concat")
def cat(call: Call, tensors: list[Axes], dim: int = 0) -> Axes:
    """One tensor after another; all other axes agree."""
    # Empty one-dimensional tensors may be joined to anything (an empty cache, for example).
    filled = [axes for axes in tensors if [term.size for term in axes] != [0]]
    if not filled:
        return tensors[0]
    others = call.terms.broadcast(*(replaced(axes, dim, Term(1)) for axes in filled))
    return replaced(others, dim, join(Kind.CAT, [axes[dim] for axes in filled]))


@rule("stack")
def stack(call: Call, tensors: list[Axes], dim: int = 0) -> Axes:
    """A new axis, one position for each tensor."""
    out = call.terms.broadcast(*tensors)
    at = dim % (len(out) + 1)
    return (*out[:at], Term(len(tensors), "stacked"), *out[at:])


@rule("new_empty", "new_zeros", "new_ones", "new_full", "empty", "zeros", "ones", "full")
def fill(call: Call, *_: Any, **__: Any) -> Value:
    """New free axes: one value everywhere fits any size."""
    return call.fresh()


@rule("arange")
def count(call: Call, *_: Any, **__: Any) -> Value:
    """A counted axis, whose length is written in the graph."""
    return call.fresh("counted by arange")
