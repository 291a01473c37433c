"""Search the core: dynamic programming over the open groups with dominance, bounds and a beam.

A state is an unfinished plan: what it leaves of the budget (negative while it overspends) and what
it has gained. One level decides one group. A state that leaves less and gains no more than another
is dropped, and so is one whose bound does not beat the best plan known. If no state had to be
dropped for lack of room (the beam), the search was exhausted and its best plan is optimal.

The idea of a core in a knapsack is Pisinger's (EJOR 83, 1995); written from its description.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.core_problem import Core, Level

_MOST_PAIRS = 2**22  # states times candidates on one level
_CHUNK = 2**16
_BOUND_STEPS = 4  # a bound at every price takes about as long as this many pairs


@dataclass
class Work:
    """What the search may still spend, shared by its rounds."""

    steps_left: int
    """One per state and candidate, and a few more for those that get their bound. It bounds the
    time, and the memory of the way back: 4 bytes per state"""
    deadline: float
    """``time.perf_counter()`` at which to stop"""
    max_states: int = 0

    def spent(self) -> bool:
        return self.steps_left <= 0 or time.perf_counter() > self.deadline


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


_Pairs = NDArray[np.int32]
_Trace = list[tuple[Level, _Pairs, int]]
"""Per level: the level, the pair (candidate * count + state) behind each state, and the count"""


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
    root_left, root_gain = np.array([left]), np.array([0.0])
    states = _States(root_left, root_gain, *_bound(core, 0, root_left, root_gain))
    most, dropped = float(states.bound[0]), 0.0
    at_multiplier = float(core.price[0] * left + core.tail[0][0])
    open_candidates = core.candidates
    best: dict[int, int] = {}
    trace: _Trace = []
    for depth, level in enumerate(core.levels):
        need = floor + core.unit
        if most < need:
            break
        if level.step_loss > at_multiplier - need:
            continue  # a better plan since the core was built has settled this group
        if work.spent():
            dropped = max(dropped, float(states.bound.max()))
            break
        count, size = len(states.left), len(level.gain)
        open_candidates -= size
        room = _room(core, depth, beam, open_candidates, work)
        states, pair, lost = _decide(core, depth, states, need, room, work)
        dropped = max(dropped, lost)
        if not len(pair):
            break
        trace.append((level, pair, count))
        work.max_states = max(work.max_states, len(pair))
        # Gains rise as what is left falls: the last state within the budget is the best of them.
        last = int(np.count_nonzero(states.left >= 0)) - 1
        if last >= 0 and states.gain[last] > floor:
            best = _picks(trace, last)
            floor = float(states.gain[last]) + tolerance
    bound = max(floor, math.floor(min(dropped, most) / core.unit) * core.unit)
    return Found(bound, bound == floor, best)


def _room(core: Core, depth: int, beam: int, open_candidates: int, work: Work) -> int:
    """How many states may pass to the next level, so that the work lasts to the end."""
    if depth + 1 == len(core.levels):
        return beam
    fair = max(0, work.steps_left) // open_candidates
    return max(1, min(beam, fair, _MOST_PAIRS // len(core.levels[depth + 1].gain)))


def _decide(
    core: Core, depth: int, states: _States, need: float, room: int, work: Work
) -> tuple[_States, _Pairs, float]:
    """States after one more level, the pair behind each, and the best bound that had to go."""
    level = core.levels[depth]
    # On the price of its parent a child is worse by the loss of its candidate: a first, cheap test.
    lost = level.loss.take(states.line, axis=1)
    candidate, state = (lost <= states.bound - need).nonzero()
    work.steps_left -= lost.size + _BOUND_STEPS * len(state)
    left = states.left[state] - level.cost[candidate]
    gain = states.gain[state] + level.gain[candidate]
    line, bound = _bound(core, depth + 1, left, gain)
    keep = ((bound >= need) & (left >= -core.savings[depth + 1])).nonzero()[0]
    keep, best_lost = _within_beam(bound, keep, room)
    keep = _undominated(left, gain, keep)
    pair = (candidate[keep] * len(states.left) + state[keep]).astype(np.int32)
    return _States(left[keep], gain[keep], line[keep], bound[keep]), pair, best_lost


def _bound(core: Core, depth: int, left: IntArray, gain: FloatArray) -> tuple[IntArray, FloatArray]:
    """The tightest bound of states before level ``depth``, and the index of its price."""
    if len(left) > _CHUNK:
        cuts = range(0, len(left), _CHUNK)
        parts = [_bound(core, depth, left[i : i + _CHUNK], gain[i : i + _CHUNK]) for i in cuts]
        lines, bounds = zip(*parts, strict=True)
        return np.concatenate(lines), np.concatenate(bounds)
    on_line = core.price[:, None] * left
    on_line += gain
    on_line += core.tail[depth][:, None]
    return on_line.argmin(axis=0), on_line.min(axis=0)


def _within_beam(bound: FloatArray, keep: IntArray, room: int) -> tuple[IntArray, float]:
    """The ``room`` states of the highest bound, and the highest bound among the others."""
    if len(keep) <= room:
        return keep, -np.inf
    order = np.argpartition(-bound[keep], room)
    return keep[order[:room]], float(bound[keep[order[room:]]].max())


def _undominated(left: IntArray, gain: FloatArray, keep: IntArray) -> IntArray:
    """States by falling rest, each gaining more than all that leave as much or more."""
    if len(keep) < 2:
        return keep
    keep = keep[np.lexsort((-gain[keep], -left[keep]))]
    sorted_gain = gain[keep]
    better = np.empty(len(keep), np.bool_)
    better[0] = True
    np.greater(sorted_gain[1:], np.maximum.accumulate(sorted_gain)[:-1], out=better[1:])
    return keep[better]


def _picks(trace: _Trace, state: int) -> dict[int, int]:
    """The decisions that led to ``state`` of the last level in ``trace``."""
    picks = {}
    for level, pair, count in reversed(trace):
        candidate, state = divmod(int(pair[state]), count)
        picks[level.group] = int(level.position[candidate])
    return picks
