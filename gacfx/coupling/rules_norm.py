"""Rules of normalisations. Operators that do the same have their arguments in different places:
the fourth one of ``layer_norm`` is a shift, that of ``rms_norm`` a number.
"""

from typing import Any

from gacfx.coupling.rules import Call, NotFollowed, Value, rule
from gacfx.coupling.terms import Axes, Term, freeze, mix
from gacfx.graph.ops import short_name


@rule("layer_norm", "native_layer_norm")
def layer_norm(
    call: Call,
    x: Axes,
    sizes: list[int],
    weight: Axes | None = None,
    bias: Axes | None = None,
    *_: Any,
) -> Value:
    """Scale and shift lie along the last axes of x."""
    return _along_last(call, x, len(sizes), weight, bias)


@rule("rms_norm", "_fused_rms_norm")
def rms_norm(call: Call, x: Axes, sizes: list[int], weight: Axes | None = None, *_: Any) -> Value:
    """As layer_norm, without a shift."""
    return _along_last(call, x, len(sizes), weight)


def _along_last(call: Call, x: Axes, count: int, *affine: Axes | None) -> Value:
    mix(x[len(x) - count :], f"averaged over by {short_name(call.node)}")
    out = call.terms.broadcast(x, *(axes for axes in affine if axes is not None))
    if call.single:
        return out
    # The mean and the deviation of every vector, beside the result.
    alone = (*x[: len(x) - count], *(Term(1) for _ in range(count)))
    return [out, *(alone for _ in call.shapes[1:])]


@rule("group_norm")
def group_norm(
    call: Call,
    x: Axes,
    groups: int,
    weight: Axes | None = None,
    bias: Axes | None = None,
    *_: Any,
) -> Axes:
    """x [B, C, ..]: how many groups there are is written in the graph, so C stays."""
    _per_channel(call, x, weight, bias)
    freeze([x[1]], f"normalised in {groups} groups")
    mix(x[1:], "averaged over by group_norm")
    return x


@rule("batch_norm", "instance_norm")
def batch_norm(
    call: Call,
    x: Axes,
    weight: Axes | None,
    bias: Axes | None,
    mean: Axes | None,
    variance: Axes | None,
    measures: bool,
    *_: Any,
) -> Axes:
    """x [B, C, ..]: each channel by itself."""
    _per_channel(call, x, weight, bias, mean, variance)
    if measures:
        mix((*x[:1], *x[2:]), f"averaged over by {short_name(call.node)}")
    return x


def _per_channel(call: Call, x: Axes, *vectors: Axes | None) -> None:
    if len(x) < 2:
        raise NotFollowed("normalised without a channel axis")
    for vector in vectors:
        if vector is not None:
            call.terms.unify(x[1], vector[0])
