"""Rules of operators that compute: elementwise, contractions, attention, reductions."""

from typing import Any

from gacfx.coupling.rules import Call, NotFollowed, Value, rule
from gacfx.coupling.terms import Axes, Term, freeze, mix
from gacfx.graph.ops import operands, short_name, weight_name


@rule("__and__", "__or__", "copy", "expand_as", "floor_divide", "masked_fill", "where")
def elementwise(call: Call, *_: Any, **__: Any) -> Value:
    """Axes agree one by one, and size 1 stretches.

    Serves as well every operator that torch itself tags as pointwise; the names above are those
    that do not carry the tag, or not in all their overloads.
    """
    axes = call.terms.broadcast(*call.inputs)
    return axes if call.single else [axes for _ in call.shapes]


@rule("alias", "clone", "contiguous", "detach", "fill", "lift_fresh_copy", "to")
@rule("_to_copy", "empty_like", "full_like", "ones_like", "type_as", "zeros_like")
def unary(call: Call, x: Axes, *_: Any, **__: Any) -> Axes:
    """The axes of the first argument."""
    return x


@rule("softmax", "log_softmax", "cumsum")
def along(call: Call, x: Axes, dim: int, *_: Any, **__: Any) -> Axes:
    """The axes of the first argument; every element along one of them has its say in the others."""
    mix([x[dim]] if x else [], f"summed over by {short_name(call.node)}")
    return x


@rule("dropout")
def dropout(call: Call, x: Axes, _: float = 0.0, train: bool = False) -> Axes:
    """The axes of the first argument; in training, fewer elements draw other numbers."""
    if train:
        mix(x, "drawn for by dropout")
    return x


@rule("linear")
def linear(call: Call, x: Axes, weight: Axes, bias: Axes | None = None) -> Axes:
    """x [.., K] and weight [N, K]."""
    call.terms.unify(x[-1], weight[-1])
    if bias is not None:
        call.terms.unify(weight[0], bias[0])
    return (*x[:-1], *weight[:-1])


@rule("mm", "bmm", "matmul")
def matmul(call: Call, x: Axes, y: Axes) -> Axes:
    """x [.., M, K] and y [.., K, N]; either may be a vector."""
    if not any(map(weight_name, operands(call.node))):
        mix([x[-1]], "summed over by a product of activations")
    if len(y) == 1:
        call.terms.unify(x[-1], y[0])
        return x[:-1]
    call.terms.unify(x[-1], y[-2])
    return (*call.terms.broadcast(x[:-2], y[:-2]), *x[-2:-1], y[-1])


@rule("addmm", "baddbmm")
def addmm(call: Call, bias: Axes, x: Axes, y: Axes, **_: Any) -> Axes:
    """``bias + x @ y``; y is the weight of the Conv1D of GPT-2, [K, N]."""
    return call.terms.broadcast(bias, matmul(call, x, y))


@rule("transformers.grouped_mm_fallback", "_grouped_mm")
def grouped_mm(
    call: Call, x: Axes, weight: Axes, offsets: Axes, bias: Axes | None = None, *_: Any, **__: Any
) -> Axes:
    """x [T, K] and weight [E, K, N]: one matrix for each expert."""
    if (len(x), len(weight)) != (2, 3) or bias is not None:
        raise NotFollowed("grouped matmul of other ranks or with a bias")
    call.terms.unify(x[1], weight[1])
    call.terms.unify(weight[0], offsets[0])
    return (x[0], weight[2])


@rule("scaled_dot_product_attention")
def attention(
    call: Call, q: Axes, k: Axes, v: Axes, mask: Axes | None = None, *_: Any, **__: Any
) -> Axes:
    """q [.., H, L, E], k [.., H', S, E], v [.., H', S, V]; the width V stays apart from E."""
    terms = call.terms
    terms.unify(q[-1], k[-1])
    terms.unify(k[-2], v[-2])
    kv = terms.broadcast(k[:-2], v[:-2])
    heads = (_query_heads(call, q[-3], kv[-1]),) if len(q) > 2 else ()
    lead = (*terms.broadcast(q[:-3], kv[:-1]), *heads)
    if mask is not None:
        # A position bias (T5) has the heads as an axis of the mask.
        terms.broadcast((*lead, q[-2], k[-2]), mask)
    return (*lead, q[-2], v[-1])


def _query_heads(call: Call, q: Term, kv: Term) -> Term:
    """Query heads: as many as KV heads, or KV heads x group (grouped-query attention)."""
    if q.size == kv.size:
        return call.terms.unify(q, kv)
    if kv.size and q.size % kv.size == 0:
        call.terms.unify(call.terms.view([q], (kv.size, q.size // kv.size))[0], kv)
        return q
    raise NotFollowed(f"{q.size} query heads on {kv.size} KV heads")


@rule("conv1d", "conv2d", "conv3d")
def conv(
    call: Call,
    x: Axes,
    weight: Axes,
    bias: Axes | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Axes:
    """x [B, C, ..] and weight [N, C, ..]; the kernel belongs to stride and image, so it stays."""
    if groups != 1 or len(x) != len(weight):
        raise NotFollowed("convolution in groups or without batch axis")
    call.terms.unify(x[1], weight[1])
    if bias is not None:
        call.terms.unify(weight[0], bias[0])
    freeze([*x[2:], *weight[2:]], "convolution window")
    return (x[0], weight[0], *(Term(size, "convolution window") for size in call.shape[2:]))


@rule("mean", "sum", "amax", "amin", "any", "all")
def reduce(
    call: Call,
    x: Axes,
    dim: int | list[int] | None = None,
    keepdim: bool = False,
    **_: Any,
) -> Axes:
    """Some axes vanish, or shrink to size 1."""
    dims = [dim] if isinstance(dim, int) else dim or range(len(x))
    gone = {at % len(x) for at in dims} if x else set()
    does = "averaged" if short_name(call.node) == "mean" else "summed"
    mix((x[at] for at in gone), f"{does} over by {short_name(call.node)}")
    one = (Term(1),) if keepdim else ()
    parts = ((one if at in gone else (term,)) for at, term in enumerate(x))
    return tuple(term for part in parts for term in part)
