"""The linear relaxation: the best multiplier, and the plan that it picks.

A multiplier prices the budget: every group then takes the candidate with the largest
``value - multiplier * cost``, and spends less the higher the price. The best multiplier is where
the total crosses the budget. It is found without building the concave hulls: between a cheap and a
rich candidate of each group lies a chord, the chords alone are a fractional knapsack with a
critical slope, and the candidates above their chord at that slope tell on which side the answer
lies. Each round drops the candidates that are out of the bracket or below their chord, so the work
is linear in practice, also for curves that are not concave, such as those of a weight that may stay
dense.

After Dyer 1984 and Zemel 1984, who bracket by medians of slopes.
"""

from dataclasses import dataclass, replace

import numpy as np

from gacfx.planning.arrays import FloatArray, IntArray, run_ends
from gacfx.planning.lattice import Flat

_SAMPLES = 17  # candidates per group in the first guess
_STRETCH = 1.05  # how far beside the guess the second look is
_LOOKS = 4


@dataclass(frozen=True)
class Relaxed:
    """A multiplier and a plan within the budget that is best for it, or nearly so."""

    multiplier: float
    chosen: IntArray
    """[groups] positions"""
    left: int
    """What the plan leaves of ``room``"""


def relax(flat: Flat) -> Relaxed:
    """Solve the linear relaxation and round it down to a plan within the budget."""
    free = _most_valuable(flat)
    left = flat.room - int(flat.cost[free].sum())
    if left >= 0:
        return Relaxed(0.0, free, left)
    cheap, rich = flat.start[:-1], free
    if len(flat.cost) > 4 * _SAMPLES * flat.groups:
        cheap, rich = _bracket(flat, cheap, rich)
    multiplier, cheap, rich = _narrow(flat, cheap, rich)
    return _round_down(flat, multiplier, cheap, rich)


def _most_valuable(flat: Flat) -> IntArray:
    top = np.maximum.reduceat(flat.value, flat.start[:-1])
    return _first_last(flat, np.flatnonzero(flat.value == flat.spread(top)))[0]


def _first_last(flat: Flat, hits: IntArray) -> tuple[IntArray, IntArray]:
    """First and last of the sorted positions ``hits`` in each group; each group has one."""
    edge = np.searchsorted(hits, flat.start)
    return hits[edge[:-1]], hits[edge[1:] - 1]


def _bracket(flat: Flat, cheap: IntArray, rich: IntArray) -> tuple[IntArray, IntArray]:
    """A closer pair of plans around the budget, from a guess made on a sample of candidates."""
    step = np.arange(_SAMPLES)
    sample = (flat.start[:-1, None] + (flat.sizes - 1)[:, None] * step // (_SAMPLES - 1)).ravel()
    coarse = replace(
        flat,
        start=np.arange(flat.groups + 1) * _SAMPLES,
        cost=flat.cost[sample],
        weight=flat.weight[sample],
        value=flat.value[sample],
    )
    price = relax(coarse).multiplier
    buffer = np.empty(len(flat.cost))
    sides = set()
    for _ in range(_LOOKS):
        first, last = _best_at(flat, price, buffer)
        if int(flat.cost[first].sum()) > flat.room:
            rich, up = first, True
        else:
            # The richest of equals may still be over the budget; then the answer is this price.
            fits = int(flat.cost[last].sum()) <= flat.room
            cheap, rich, up = (last, rich, False) if fits else (first, last, False)
            if not fits:
                break
        sides.add(up)
        if len(sides) == 2 or price == 0:
            break
        price *= _STRETCH if up else 1 / _STRETCH
    return cheap, rich


def _best_at(flat: Flat, price: float, buffer: FloatArray) -> tuple[IntArray, IntArray]:
    """Cheapest and richest of the best candidates of each group at ``price``."""
    np.multiply(flat.weight, -price, out=buffer)
    buffer += flat.value
    top = np.maximum.reduceat(buffer, flat.start[:-1])
    return _first_last(flat, np.flatnonzero(buffer == flat.spread(top)))


def _narrow(flat: Flat, cheap: IntArray, rich: IntArray) -> tuple[float, IntArray, IntArray]:
    """Close the bracket until no candidate rises above a chord.

    Terminates: a round that does not return moves an end of the critical group to one of its inner
    candidates, because the chords alone would be cut exactly at that group.
    """
    inner = _between(cheap, rich)
    owner = flat.owner(inner)
    while True:
        price, slope = _critical(flat, cheap, rich)
        rise = flat.value[inner] - flat.value[cheap][owner]
        above = rise > slope[owner] * (flat.weight[inner] - flat.weight[cheap][owner])
        inner, owner = inner[above], owner[above]
        if not len(inner):
            return price, cheap, rich
        first = np.where(slope > price, rich, cheap)
        last = np.where(slope < price, cheap, rich)
        _take_inner(flat, price, (inner, owner), first, last)
        if int(flat.cost[first].sum()) > flat.room:
            rich = first
        elif int(flat.cost[last].sum()) <= flat.room:
            cheap = last
        else:
            return price, first, last
        inside = (inner > cheap[owner]) & (inner < rich[owner])
        inner, owner = inner[inside], owner[inside]


def _between(cheap: IntArray, rich: IntArray) -> IntArray:
    """All positions strictly between the two ends of each group, ascending."""
    count = np.maximum(rich - cheap - 1, 0)
    before = np.cumsum(count) - count
    first: IntArray = np.repeat(cheap + 1 - before, count)
    return first + np.arange(len(first))


def _critical(flat: Flat, cheap: IntArray, rich: IntArray) -> tuple[float, FloatArray]:
    """The slope at which the chords use up the room, and the slope of each chord (0: closed)."""
    width = flat.cost[rich] - flat.cost[cheap]
    rise = np.maximum(flat.value[rich] - flat.value[cheap], 0.0)
    slope = np.divide(rise, width, out=np.zeros(len(width)), where=width > 0)
    order = np.argsort(-slope, kind="stable")
    used = np.cumsum(width[order]) + int(flat.cost[cheap].sum())
    return float(slope[order[np.searchsorted(used, flat.room, side="right")]]), slope


def _take_inner(
    flat: Flat,
    price: float,
    inside: tuple[IntArray, IntArray],
    first: IntArray,
    last: IntArray,
) -> None:
    """Put inner candidates that beat both ends at ``price`` into ``first`` and ``last``."""
    inner, owner = inside
    reduced = flat.value[inner] - price * flat.weight[inner]
    ends = np.maximum(
        flat.value[first] - price * flat.weight[first],
        flat.value[last] - price * flat.weight[last],
    )
    runs = run_ends(owner)
    peak = np.maximum.reduceat(reduced, runs[:-1])
    hits = np.flatnonzero(reduced == np.repeat(peak, runs[1:] - runs[:-1]))
    edge = np.searchsorted(hits, runs)
    group = owner[runs[:-1]]
    wins = peak > ends[group]
    first[group[wins]] = inner[hits[edge[:-1]]][wins]
    last[group[wins]] = inner[hits[edge[1:] - 1]][wins]


def _round_down(flat: Flat, price: float, cheap: IntArray, rich: IntArray) -> Relaxed:
    """Take the steepest chords while they fit, then every later one of equal slope that fits.

    Chords at the critical slope are tried widest first. Without that rule problems whose candidates
    all lie on one line (subset sums) start far from the budget.
    """
    _, slope = _critical(flat, cheap, rich)
    width = flat.cost[rich] - flat.cost[cheap]
    order = np.lexsort((-width, -slope))
    chosen = cheap.copy()
    left = flat.room - int(flat.cost[cheap].sum())
    fit = int(np.searchsorted(np.cumsum(width[order]), left, side="right"))
    chosen[order[:fit]] = rich[order[:fit]]
    left -= int(width[order[:fit]].sum())
    for group in order[fit:]:
        if slope[group] < price or left == 0:
            break
        if width[group] <= left:
            chosen[group] = rich[group]
            left -= int(width[group])
    return Relaxed(price, chosen, left)
