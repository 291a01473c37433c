"""Search the core: dynamic programming over its levels with dominance, bounds and a beam.

A state is an unfinished plan: what it leaves of the budget (negative while it overspends) and what
it has gained. A state that leaves less and gains no more than another is dropped, and so is one
whose bound does not beat the best plan known. When the bounds have come down, the candidates that
no state can afford any more go as well, which mostly leaves little of the core. If no state had to
be dropped for lack of room (the beam), the search was exhausted and its best plan is optimal.

The idea of a core in a knapsack is Pisinger's (EJOR 83, 1995); written from its description.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.one_budget.core_problem import Core, narrowed
from gacfx.knapsack.order import stable_order
from gacfx.knapsack.work import Work

_MOST_PAIRS = 2**22  # states times candidates on one level
_BOUND_STEPS = 2  # a bound takes about as long as this many pairs
_NARROW = 0.5  # make a new core when the largest distance from the floor fell to this share
_FEW_LEVELS = 6  # not worth a new core


@dataclass(frozen=True)
class Found:
    """What one round of search proved, in grid steps above the relaxed plan."""

    bound: float
    """No plan gains more"""
    complete: bool
    """Nothing that could matter was dropped for lack of room or time"""
    picks: list[int]
    """Candidates of ``Unfixed`` in the best plan above the floor, where it may differ from the
    relaxed one; empty if none was found"""


@dataclass(frozen=True)
class _States:
    left: IntArray
    """Falling"""
    gain: FloatArray
    """Rising"""
    line: IntArray
    """Index of the price that bounds each state best"""
    bound: FloatArray


@dataclass(frozen=True)
class _Step:
    """One level that was decided, or several that had one candidate left; for the way back."""

    core: Core
    pair: NDArray[np.int32]
    """[states] ``count`` times the state before, plus the candidate; empty: states stayed"""
    count: int
    """Candidates of the level"""
    taken: IntArray
    """The candidates of the level, or those that every state took"""


def search(core: Core, left: int, floor: float, tolerance: float, beam: int, work: Work) -> Found:
    """Look for plans that gain more than ``floor``; one level after the other is decided.

    Args:
        core: the open groups.
        left: budget that the relaxed plan leaves.
        floor: grid steps; plans that gain no more are of no interest.
        tolerance: grid steps by which later finds must beat earlier ones; 0 finds the best.
        beam: most states after a level.
        work: guards, updated.
    """
    return _Search(core, floor, tolerance, beam, work).run(left)


class _Search:
    """The states after each level of a core, which smaller cores replace on the way."""

    def __init__(self, core: Core, floor: float, tolerance: float, beam: int, work: Work) -> None:
        self.core, self.depth = core, 0
        self.floor, self.tolerance = floor, tolerance
        self.beam, self.work = beam, work
        self.dropped = -math.inf  # the highest bound of a state that went for lack of room
        self.steps: list[_Step] = []
        self.best: tuple[int, int] | None = None  # steps, and the state after them

    @property
    def need(self) -> float:
        """The least bound of a plan that is of interest: gains are whole units."""
        return self.floor + self.core.scale.grid.unit

    def run(self, left: int) -> Found:
        states = self._bounded(np.array([left]), np.array([0.0]))
        most = float(states.bound[0])
        ahead = most - self.need
        while self.depth < self.core.levels and len(states.left):
            now = float(states.bound.max()) - self.need
            if now < 0:
                break
            if self.work.spent():
                self.dropped = max(self.dropped, now + self.need)
                break
            if now <= _NARROW * ahead and self.core.levels - self.depth >= _FEW_LEVELS:
                ahead = now
                states = self._narrow(states)
            else:
                states = self._decide(states)
            self._note(states)
        bound = self.floor
        if self.dropped >= self.need:
            unit = self.core.scale.grid.unit
            bound = max(bound, math.floor(min(most, self.dropped) / unit) * unit)
        return Found(bound, bound == self.floor, self._way_back())

    def _bounded(self, left: IntArray, gain: FloatArray) -> _States:
        return _States(left, gain, *self.core.bound(self.depth, left, gain))

    def _note(self, states: _States) -> None:
        """Keep the best plan. Groups that are still open stay with the relaxed plan in it."""
        # Gains rise as what is left falls: the last state within the budget is the best of them.
        last = int(np.count_nonzero(states.left >= 0)) - 1
        if last >= 0 and states.gain[last] > self.floor:
            self.best = len(self.steps), last
            self.floor = float(states.gain[last]) + self.tolerance

    def _narrow(self, states: _States) -> _States:
        """Go on with a core of what the states can still afford to lose."""
        core, ahead = self.core, states.bound - self.need
        most = np.full(len(core.price), -1.0)
        np.maximum.at(most, states.line, ahead)
        multiplier = float(core.price[states.line[ahead.argmax()]])
        smaller, forced = narrowed(core, self.depth, most, multiplier)
        self.steps.append(_Step(core, np.zeros(0, np.int32), 0, forced))
        left = states.left - int(core.items.cost[forced].sum())
        gain = states.gain + float(core.items.gain[forced].sum())
        if smaller is None:  # all states are complete
            self.depth = core.levels
        else:
            self.core, self.depth = smaller, 0
        return self._bounded(left, gain)

    def _decide(self, states: _States) -> _States:
        """The states after one more level."""
        core = self.core
        begin, end = core.ends[self.depth], core.ends[self.depth + 1]
        self.depth += 1
        count = end - begin
        # On the price of its parent a child is worse by the loss of its candidate: a cheap test.
        lost = core.loss[:, begin:end].take(states.line, axis=0)
        pair = np.flatnonzero(lost <= (states.bound - self.need)[:, None]).astype(np.int32)
        self.work.steps_left -= lost.size + _BOUND_STEPS * len(pair)
        state = pair // np.int32(count)
        candidate = begin + pair - state * np.int32(count)
        left = states.left[state] - core.items.cost[candidate]
        gain = states.gain[state] + core.items.gain[candidate]
        is_last = self.depth == core.levels
        keep = _best(left, gain) if is_last else _undominated(left, gain)
        left, gain = left[keep], gain[keep]
        line, bound = core.bound(self.depth, left, gain)
        good = np.flatnonzero((bound >= self.need) & (left >= -core.savings[self.depth]))
        good, best_lost = _within_beam(bound, good, self._room())
        self.dropped = max(self.dropped, best_lost)
        self.work.max_states = max(self.work.max_states, len(good))
        self.steps.append(_Step(core, pair[keep[good]], count, np.arange(begin, end)))
        return _States(left[good], gain[good], line[good], bound[good])

    def _room(self) -> int:
        """How many states may pass to the next level, so that the work lasts to the end."""
        ends = self.core.ends
        if self.depth == self.core.levels:
            return self.beam
        fair = max(0, self.work.steps_left) // (ends[-1] - ends[self.depth])
        next_size = ends[self.depth + 1] - ends[self.depth]
        return max(1, min(self.beam, fair, _MOST_PAIRS // next_size))

    def _way_back(self) -> list[int]:
        """The decisions that led to the best plan."""
        if self.best is None:
            return []
        count, state = self.best
        found = []
        for step in reversed(self.steps[:count]):
            taken = step.taken.tolist()
            if step.count:
                state, candidate = divmod(int(step.pair[state]), step.count)
                taken = taken[candidate : candidate + 1]
            found += step.core.items.source[taken].tolist()
        return found


def _within_beam(bound: FloatArray, keep: IntArray, room: int) -> tuple[IntArray, float]:
    """The ``room`` states of the highest bound, and the highest bound among the others."""
    if len(keep) <= room:
        return keep, -math.inf
    mine = bound[keep]
    least = np.partition(mine, len(mine) - room)[len(mine) - room]
    inside = mine > least
    # Of those exactly at the edge the first ones stay, on every machine.
    inside[np.flatnonzero(mine == least)[: room - np.count_nonzero(inside)]] = True
    return keep[inside], float(mine[~inside].max())


def _best(left: IntArray, gain: FloatArray) -> IntArray:
    """Of complete plans only the one that gains most within the budget matters."""
    legal = np.flatnonzero(left >= 0)
    return legal[gain[legal].argmax() :][:1] if len(legal) else legal


def _undominated(left: IntArray, gain: FloatArray) -> IntArray:
    """States by falling rest, each gaining more than all that leave as much or more."""
    order = stable_order(-left)
    mine = gain[order]
    record = np.ones(len(order), np.bool_)
    np.greater(mine[1:], np.maximum.accumulate(mine)[:-1], out=record[1:])
    order = order[record]
    rest = left[order]
    last = np.ones(len(order), np.bool_)
    np.less(rest[1:], rest[:-1], out=last[:-1])  # of equal rests the last record gains most
    return order[last]
