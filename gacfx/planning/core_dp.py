"""Search the core: dynamic programming over the open groups with dominance, bounds and a beam.

A state is an unfinished plan: what it leaves of the budget (negative while it overspends) and what
it has gained. One level decides one group. A state that leaves less and gains no more than another
is dropped, and so is one whose bound does not beat the best plan known. If no state had to be
dropped for lack of room (the beam), the search was exhausted and its best plan is optimal.

The idea of a core in a knapsack is Pisinger's (EJOR 83, 1995); this is written from its description.
"""

import time
from dataclasses import dataclass

import numpy as np

from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.core_problem import Core, Level


_MOST_PAIRS = 2**22  # states times candidates on one level
_CHUNK = 2**16


@dataclass
class Work:
    """What the search may still spend, shared by its rounds."""

    pairs_left: int
    """States times candidates; it bounds the time, and the memory of the way back (4 bytes each)"""
    deadline: float
    """``time.perf_counter()`` at which to stop"""
    max_states: int = 0

    def spent(self) -> bool:
        return self.pairs_left <= 0 or time.perf_counter() > self.deadline


@dataclass(frozen=True)
class Found:
    """What one round of search proved, in grid steps above the relaxed plan."""

    bound: float
    """No plan gains more"""
    complete: bool
    """Nothing that could matter was dropped for lack of room or time"""
    picks: dict[int, int]
    """group -> position of the best plan above the floor; empty if none was found"""


@dataclass(frozen=True)
class _States:
    left: IntArray
    gain: FloatArray
    line: IntArray
    """Index of the price that bounds each state best"""
    bound: FloatArray

    def pick(self, index: IntArray) -> "_States":
        return _States(self.left[index], self.gain[index], self.line[index], self.bound[index])


_Trace = list[tuple[Level, IntArray, int]]


def search(core: Core, left: int, floor: float, tolerance: float, beam: int, work: Work) -> Found:
    """Look for plans that gain more than ``floor``; one level decides one group.

    Args:
        core: the open groups.
        left: budget that the relaxed plan leaves.
        floor: grid steps; plans that gain no more are of no interest.
        tolerance: grid steps by which later finds must beat earlier ones; 0 finds the best.
        beam: most states after a level.
        work: guards, updated.
    """
    states = _bounded(core, 0, np.array([left]), np.array([0.0]))
    most, dropped = float(states.bound[0]), -np.inf
    open_candidates = core.candidates
    best: dict[int, int] = {}
    trace: _Trace = []
    for depth, level in enumerate(core.levels):
        if most < floor + core.unit:
            break
        if work.spent():
            dropped = max(dropped, float(states.bound.max()))
            break
        count, size = len(states.left), len(level.gain)
        work.pairs_left -= count * size
        open_candidates -= size
        states, pair = _decide(core, depth, states, floor + core.unit)
        states, pair, lost = _within_beam(states, pair, _room(core, depth, beam, open_candidates, work))
        dropped = max(dropped, lost)
        states, pair = _undominated(states, pair)
        if not len(pair):
            break
        trace.append((level, pair.astype(np.int32), count))
        work.max_states = max(work.max_states, len(pair))
        # Gains rise as what is left falls: the last state within the budget is the best of them.
        last = int(np.count_nonzero(states.left >= 0)) - 1
        if last >= 0 and states.gain[last] > floor:
            best = _picks(trace, last)
            floor = float(states.gain[last]) + tolerance
    dropped = min(dropped, most)
    return Found(max(floor, dropped), dropped < floor + core.unit, best)


def _bounded(core: Core, depth: int, left: IntArray, gain: FloatArray) -> _States:
    """States before level ``depth`` with their tightest bound."""
    line = np.empty(len(left), np.int64)
    bound = np.empty(len(left))
    tail = core.tail[depth][:, None]
    for start in range(0, len(left), _CHUNK):
        part = slice(start, start + _CHUNK)
        lines = core.price[:, None] * left[part]
        lines += gain[part]
        lines += tail
        line[part] = lines.argmin(axis=0)
        bound[part] = lines.min(axis=0)
    return _States(left, gain, line, bound)


def _decide(core: Core, depth: int, states: _States, need: float) -> tuple[_States, IntArray]:
    """All children that may still reach ``need``, and which pair (candidate, state) made each."""
    level = core.levels[depth]
    # On the price of its parent a child is worse by the loss of its candidate: a first, cheap test.
    lost = level.loss.take(states.line, axis=1)
    pair = np.flatnonzero(lost <= states.bound - need)
    candidate, state = np.divmod(pair, len(states.left))
    left = states.left[state] - level.cost[candidate]
    gain = states.gain[state] + level.gain[candidate]
    children = _bounded(core, depth + 1, left, gain)
    keep = np.flatnonzero((children.bound >= need) & (left >= -core.savings[depth + 1]))
    return children.pick(keep), pair[keep]


def _room(core: Core, depth: int, beam: int, open_candidates: int, work: Work) -> int:
    """How many states may pass to the next level."""
    if depth + 1 == len(core.levels):
        return beam
    fair = max(0, work.pairs_left) // open_candidates
    return max(1, min(beam, fair, _MOST_PAIRS // len(core.levels[depth + 1].gain)))


def _within_beam(
    states: _States, pair: IntArray, room: int
) -> tuple[_States, IntArray, float]:
    """The ``room`` states of the highest bound, and the highest bound among the others."""
    if len(pair) <= room:
        return states, pair, -np.inf
    order = np.argpartition(-states.bound, room)
    keep = order[:room]
    return states.pick(keep), pair[keep], float(states.bound[order[room:]].max())


def _undominated(states: _States, pair: IntArray) -> tuple[_States, IntArray]:
    """States by falling rest; each gains more than all that leave as much or more."""
    if len(pair) < 2:
        return states, pair
    order = np.lexsort((-states.gain, -states.left))
    gain = states.gain[order]
    better = np.ones(len(order), np.bool_)
    better[1:] = gain[1:] > np.maximum.accumulate(gain)[:-1]
    order = order[better]
    return states.pick(order), pair[order]


def _picks(trace: _Trace, state: int) -> dict[int, int]:
    """The decisions that led to ``state`` of the last level in ``trace``."""
    picks = {}
    for level, pair, count in reversed(trace):
        candidate, state = divmod(int(pair[state]), count)
        picks[level.group] = int(level.position[candidate])
    return picks
