"""The linear relaxation: the best multiplier, and the plan that it picks.

A multiplier prices the budget: every group then takes the candidate with the largest
``value - multiplier * cost``, and spends less the higher the price. The best multiplier is where
the total crosses the budget. In steps:

    a guess from a sample of groups and candidates
    looks at prices beside the guess, until one plan is within the budget and one is over it
    the critical price of the candidates between the two plans (``critical``)
    of equally good candidates at that price, the widest that fit
    where a jump to a dense weight did not fit: all of that again without the jump

After Dyer 1984 and Zemel 1984, who bracket by medians of slopes.
"""

from dataclasses import dataclass, replace

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.one_budget.critical_price import Runs, cross
from gacfx.knapsack.order import ends_of

_SMALL = 4096  # candidates that need no guess
_SAMPLE = 2048  # candidates for the guess, or 1 of 64 if that is more, ...
_SAMPLE_SHARE = 64
_COLUMNS = 17  # ... of a group at most
_JUMPS = 4  # taken away at most ...
_JUMPS_OF_SMALL = 1  # ... where searching takes longer than relaxing again
_STRETCHES = (1.04, 1.04, 1.1, 1.3, 2.0, 10.0, 1e3)  # from one look to the next


@dataclass(frozen=True)
class Relaxed:
    """A multiplier and a plan within the budget that is best for it, or nearly so."""

    multiplier: float
    chosen: IntArray
    """[groups] positions"""
    left: int
    """What the plan leaves of the room"""
    better: IntArray
    """[groups] positions of a plan worth more, if jumps did not fit, or ``chosen`` again"""
    best: IntArray
    """[groups] positions of the best candidates at the multiplier, but for the dust of float64"""


def relax(form: NormalForm) -> Relaxed:
    """Solve the linear relaxation and round it down to a plan within the budget."""
    cheap, rich, room = form.start[:-1], form.start[1:] - 1, form.room[0]
    left = room - int(form.cost[0, rich].sum())
    if left >= 0:
        return Relaxed(0.0, rich, left, rich, rich)
    small = len(form.value) <= _SMALL
    if not small:
        cheap, rich = _bracket(form, cheap, rich)
        room -= int(form.cost[0, cheap[cheap >= rich]].sum())  # no runs count these
    group, runs = _between(form, cheap, rich)
    first = _round_down(runs, room)
    better = _without_jumps(runs, room, first, _JUMPS_OF_SMALL if small else _JUMPS)

    def positions(steps: IntArray) -> IntArray:
        found = cheap.copy()
        found[group] += steps
        return found

    chosen = positions(first.steps)
    return Relaxed(
        multiplier=first.price,
        chosen=chosen,
        left=first.left,
        better=chosen if better is first else positions(better.steps),
        best=positions(first.best),
    )


def _best(form: NormalForm, price: float) -> IntArray:
    """[groups] the best candidate of each group at ``price``; of equals the cheapest."""
    found = []
    for first, last in form.pieces():
        begin, end = int(form.start[first]), int(form.start[last])
        starts = form.start[first:last] - begin
        reduced = form.value[begin:end] - price * form.cost[0, begin:end]
        top = np.maximum.reduceat(reduced, starts)
        hits = np.flatnonzero(reduced == np.repeat(top, form.sizes[first:last]))
        found.append(begin + hits[np.searchsorted(hits, starts)])
    return np.concatenate(found)


def _bracket(form: NormalForm, cheap: IntArray, rich: IntArray) -> tuple[IntArray, IntArray]:
    """A closer pair of plans around the budget."""
    price, sides = _guess(form), set()
    for stretch in _STRETCHES:
        if price == 0:
            break
        plan = _best(form, price)
        over = int(form.cost[0, plan].sum()) > form.room[0]
        cheap, rich = (cheap, plan) if over else (plan, rich)
        sides.add(over)
        if len(sides) == 2:
            break
        price *= stretch if over else 1 / stretch
    return cheap, rich


def _guess(form: NormalForm) -> float:
    """The critical price of a sample of groups and candidates, for a like share of the budget."""
    widest = form.cost[0, form.start[1:] - 1]
    stride = max(1, form.groups * _COLUMNS // max(_SAMPLE, len(form.value) // _SAMPLE_SHARE))
    group = np.argsort(widest, kind="stable")[::-stride]  # of every width some
    share = np.linspace(0, 1, _COLUMNS)
    column = np.rint((form.sizes[group, None] - 1) * share).astype(np.int64)
    position = (form.start[group, None] + column).ravel()
    ends = np.arange(0, len(position) + 1, _COLUMNS)
    sample = Runs(ends, form.cost[0, position], form.value[position])
    part = int(widest[group].sum())
    room = form.room[0] * part // int(widest.sum())
    return cross(sample, room)[0] if room < part else 0.0


def _between(form: NormalForm, cheap: IntArray, rich: IntArray) -> tuple[IntArray, Runs]:
    """The groups where two plans differ, and their candidates from one to the other."""
    group = np.flatnonzero(cheap < rich)
    ends = ends_of(rich[group] - cheap[group] + 1)
    position = np.repeat(cheap[group] - ends[:-1], np.diff(ends)) + np.arange(ends[-1])
    return group, Runs(ends, form.cost[0, position], form.value[position])


@dataclass(frozen=True)
class _Rounded:
    """A plan within the room that is best at the critical price, or nearly so."""

    price: float
    steps: IntArray
    """[runs] how many candidates above the first"""
    best: IntArray
    """[runs] the same for the cheapest of the best candidates"""
    left: int
    value: float
    jump: tuple[int, int] | None
    """Run of the widest step that did not fit though it skips candidates, and where it begins"""


def _round_down(runs: Runs, room: int) -> _Rounded:
    """Take the cheapest of the best candidates everywhere, then the richest that still fit.

    They are tried widest first. Without that rule problems whose candidates all lie on one line
    (subset sums) start far from the budget.
    """
    price, first, last = cross(runs, room)
    left = room - int(runs.cost[first].sum())
    picks = first.copy()
    width = runs.cost[last] - runs.cost[first]
    ties = np.flatnonzero(width)
    ties = ties[np.argsort(-width[ties], kind="stable")]
    fit = int(np.searchsorted(np.cumsum(width[ties]), left, side="right"))
    picks[ties[:fit]] = last[ties[:fit]]
    left -= int(width[ties[:fit]].sum())
    misfit = None
    for tie in ties[fit:].tolist():
        if width[tie] <= left:
            picks[tie] = last[tie]
            left -= int(width[tie])
        elif misfit is None and last[tie] - first[tie] > 1:
            misfit = tie, int(first[tie])
    value = float(runs.value[picks].sum())
    start = runs.ends[:-1]
    return _Rounded(price, picks - start, first - start, left, value, misfit)


def _without_jumps(runs: Runs, room: int, found: _Rounded, jumps: int) -> _Rounded:
    """The best plan after up to ``jumps`` jumps that did not fit were taken away."""
    best = found
    for _ in range(jumps):
        if found.jump is None:
            break
        runs = runs.cut(*found.jump)
        last = runs.ends[1:] - 1
        left = room - int(runs.cost[last].sum())
        if left >= 0:  # everything else fits
            value, steps = float(runs.value[last].sum()), last - runs.ends[:-1]
            found = replace(found, steps=steps, left=left, value=value, jump=None)
        else:
            found = _round_down(runs, room)
        best = max(best, found, key=lambda rounded: rounded.value)
    return best
