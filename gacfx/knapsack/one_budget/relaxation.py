"""The linear relaxation: the best multiplier, and the plan that it picks.

A multiplier prices the budget: every group then takes the candidate with the largest
``value - multiplier * cost``, and spends less the higher the price. The best multiplier is where
the total crosses the budget. In steps:

    a guess from a sample of groups and candidates
    looks at prices beside the guess, until one plan is within the budget and one is over it
    the critical price of the candidates between the two plans (``chords``)
    of equally good candidates at that price, the widest that fit
    where a jump to a dense weight did not fit: all of that again without the jump

After Dyer 1984 and Zemel 1984, who bracket by medians of slopes.
"""

from dataclasses import dataclass, replace

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.normal_form.lattice import Flat
from gacfx.knapsack.one_budget.chords import Runs, cross
from gacfx.knapsack.order import ends_of

_SMALL = 4096  # candidates that need no guess
_SAMPLE = 2048  # candidates for the guess, or 1 of 64 if that is more, ...
_SAMPLE_SHARE = 64
_COLUMNS = 17  # ... of a row at most
_ROWS = 8  # of a table at least
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
    """What the plan leaves of ``room``"""
    better: IntArray
    """[groups] positions of a plan worth more, if jumps did not fit, or ``chosen`` again"""
    best: IntArray
    """[groups] positions of the best candidates at the multiplier, but for the dust of float64"""


def relax(flat: Flat) -> Relaxed:
    """Solve the linear relaxation and round it down to a plan within the budget."""
    rich = best_columns(flat, 0.0)
    left = flat.room - int(flat.at(rich)[0].sum())
    if left >= 0:
        position = flat.start[:-1] + rich
        return Relaxed(0.0, position, left, position, position)
    cheap = np.zeros(flat.groups, np.int64)
    room = flat.room
    if flat.candidates > _SMALL:
        cheap, rich = _bracket(flat, cheap, rich)
        spent = flat.at(cheap)[0]
        room -= int(spent[cheap >= rich].sum())  # no runs count these
    runs = _between(flat, cheap, rich)
    first = _round_down(runs, room)
    jumps = _JUMPS if flat.candidates > _SMALL else _JUMPS_OF_SMALL
    better = _without_jumps(runs, room, first, jumps)
    start = flat.start[:-1] + cheap

    def positions(steps: IntArray) -> IntArray:
        found = start.copy()
        found[runs.group] += steps
        return found

    chosen = positions(first.steps)
    return Relaxed(
        multiplier=first.price,
        chosen=chosen,
        left=first.left,
        better=chosen if better is first else positions(better.steps),
        best=positions(first.best),
    )


def best_columns(flat: Flat, price: float) -> IntArray:
    """[groups] the best candidate of each group at ``price``; of equals the cheapest."""
    column = np.empty(flat.groups, np.int64)
    for table in flat.tables:
        for rows in table.pieces():
            column[table.member[rows]] = table.reduced(price, rows).argmax(axis=1)
    return column


def _bracket(flat: Flat, cheap: IntArray, rich: IntArray) -> tuple[IntArray, IntArray]:
    """A closer pair of plans around the budget."""
    price, sides = _guess(flat, rich), set()
    for stretch in _STRETCHES:
        if price == 0:
            break
        column = best_columns(flat, price)
        over = int(flat.at(column)[0].sum()) > flat.room
        cheap, rich = (cheap, column) if over else (column, rich)
        sides.add(over)
        if len(sides) == 2:
            break
        price *= stretch if over else 1 / stretch
    return cheap, rich


def _guess(flat: Flat, rich: IntArray) -> float:
    """The critical price of a sample of groups and candidates, for a like share of the budget."""
    group, size, cost, value = [], [], [], []
    whole = sum(len(table.member) * min(table.value.shape[1], _COLUMNS) for table in flat.tables)
    stride = max(1, whole // max(_SAMPLE, flat.candidates // _SAMPLE_SHARE))
    for table in flat.tables:
        columns = table.value.shape[1]
        row = np.arange(0, len(table.member), min(stride, 1 + len(table.member) // _ROWS))
        # Nothing is worth more than the most valuable candidate, which ends the sample.
        share = np.linspace(0, 1, min(columns, _COLUMNS))
        end = rich[table.member[row]]
        column = np.rint(end[:, None] * share).astype(np.int64)
        group.append(table.member[row])
        size.append(np.full(len(row), column.shape[1]))
        cost.append(table.costs_at(row[:, None], column).ravel())
        value.append(table.value[row[:, None], column].ravel())
    sample = Runs(
        np.concatenate(group),
        ends_of(np.concatenate(size)),
        np.concatenate(cost),
        np.concatenate(value),
    )
    whole = int(flat.at(rich)[0].sum())
    part = int(sample.cost[sample.ends[1:] - 1].sum())
    room = flat.room * part // whole
    return cross(sample, room)[0] if room < part else 0.0


def _between(flat: Flat, cheap: IntArray, rich: IntArray) -> Runs:
    """The candidates from ``cheap`` to ``rich`` of the groups where these differ."""
    group, size, cost, value = [], [], [], []
    for table in flat.tables:
        first, last = cheap[table.member], rich[table.member]
        row = np.flatnonzero(first < last)
        count = last[row] - first[row] + 1
        column = np.repeat(first[row] - np.cumsum(count) + count, count) + np.arange(count.sum())
        every = np.repeat(row, count)
        group.append(table.member[row])
        size.append(count)
        cost.append(table.costs_at(every, column))
        value.append(table.value[every, column])
    ends = ends_of(np.concatenate(size))
    return Runs(np.concatenate(group), ends, np.concatenate(cost), np.concatenate(value))


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
    ties = ties[np.lexsort((runs.group[ties], -width[ties]))]
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
