"""Search the core of two resources: dynamic programming with dominance, bounds and a beam.

A state is an unfinished plan: what it leaves of both rooms (negative while it overspends) and what
it has gained. One level decides one group. A state is dropped if another leaves as much of both and
gains as much, or if its bound does not beat the best plan known. If no state had to be dropped for
lack of room (the beam), the search was exhausted and its best plan is optimal.

The idea of a core in a knapsack is Pisinger's (EJOR 83, 1995); written from its description.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.two_budgets.core_problem import TwoCore
from gacfx.knapsack.two_budgets.cutting_planes import CuttingPlanes
from gacfx.knapsack.two_budgets.states import States, undominated
from gacfx.knapsack.work import Work

_MOST_PAIRS = 2**22  # states times candidates on one level
_BOUND_STEPS = 4  # a bound on every plane takes about as long as this many pairs
_WORTH_SORTING = 96  # states; fewer are faster decided than compared with each other
_WORTH_A_CUT = 512  # states; a cut takes about as long as one level of so many
_CUTS = 3
_CUT_STEPS = 16  # per candidate of the core
_TOO_LITTLE = 0.1  # share of the states that a cut must settle to be followed by another
_LONGEST_BREAK = 16  # levels


@dataclass(frozen=True)
class Found:
    """What one search proved, in grid steps above the chosen plan."""

    bound: float
    """No plan gains more"""
    complete: bool
    """Nothing that could matter was dropped for lack of room or time"""
    picks: dict[int, int]
    """group -> position of the best plan above the floor; empty if none was found"""


_Trace = list[tuple[int, NDArray[np.int32], int]]
"""Per level: its depth, the pair behind each state, and how many states there were before"""


def search_two(
    core: TwoCore,
    planes: CuttingPlanes,
    left: Sequence[int],
    *,
    floor: float,
    tolerance: float,
    beam: int,
    work: Work,
) -> Found:
    """Look for plans that gain more than ``floor``; one level decides one group.

    Args:
        core: the open groups.
        planes: bounds over the core, the first at the dual prices; more are added.
        left: what the chosen plan leaves of both rooms.
        floor: grid steps; plans that gain no more are of no interest.
        tolerance: grid steps by which later finds must beat earlier ones; 0 finds the best.
        beam: most states after a level.
        work: guards, updated.
    """
    run = _Search(core, planes, beam, work)
    states = run.root(left)
    most = float(states.bound[0])
    at_prices = float(run.planes.bound_on(0, 0, states.left, states.gain)[0])
    best: dict[int, int] = {}
    trace: _Trace = []
    for depth in range(core.levels):
        need = floor + core.grid.unit
        if most < need:
            break
        if core.step_loss[depth] > at_prices - need:
            continue  # a better plan since the core was built has settled this group
        if work.spent():
            run.dropped = max(run.dropped, float(states.bound.max()))
            break
        count = len(states.gain)
        states = run.decide(depth, states, need)
        if not len(states.gain):
            break
        trace.append((depth, states.pair, count))
        work.max_states = max(work.max_states, len(states.gain))
        last = states.best_fitting()
        if last >= 0 and states.gain[last] > floor:
            best = _picks(core, trace, last)
            floor = float(states.gain[last]) + tolerance
    # Bounds are whole units, but for the dust that was added to them.
    bound = max(floor, math.floor(max(run.dropped, -(2.0**62)) / core.grid.unit) * core.grid.unit)
    return Found(bound, bound == floor, best)


@dataclass
class _Search:
    core: TwoCore
    planes: CuttingPlanes
    beam: int
    work: Work
    dropped: float = -math.inf
    """The highest bound that had to go for lack of room"""
    wait: int = 0
    """Levels to go without a cut"""
    rest: int = 1
    """How long the next wait will be"""

    def root(self, left: Sequence[int]) -> States:
        # Room that nothing can use is none: so states become equal that leave too much.
        rooms = np.minimum(np.array(left)[:, None], self.core.spending[:, :1])
        plane, bound = self.planes.bound(0, rooms, np.zeros(1))
        return States(rooms, np.zeros(1), plane, bound, np.zeros(1, np.int32))

    def decide(self, depth: int, states: States, need: float) -> States:
        """The states after one more level."""
        left, gain, pair = self._children(depth, states, need)
        plane, bound = self.planes.bound(depth + 1, left, gain)
        self.work.steps_left -= _BOUND_STEPS * len(gain)
        found = States(left, gain, plane, bound, pair).reaching(need)
        found = self._tighten(depth + 1, found, need)
        return self._within_beam(found, self._room(depth))

    def _children(
        self, depth: int, states: States, need: float
    ) -> tuple[IntArray, FloatArray, NDArray[np.int32]]:
        core, count = self.core, len(states.gain)
        level = slice(int(core.ends[depth]), int(core.ends[depth + 1]))
        # On the plane of its parent a child is worse by the loss of its candidate: a cheap test.
        lost = self.planes.loss[: self.planes.count, level][states.plane]
        state, candidate = (lost <= (states.bound - need)[:, None]).nonzero()
        self.work.steps_left -= lost.size
        left = states.left[:, state] - core.cost[:, level][:, candidate]
        keep = np.flatnonzero((left >= -core.savings[:, depth + 1, None]).all(axis=0))
        left = np.minimum(left[:, keep], core.spending[:, depth + 1, None])
        gain = states.gain[state[keep]] + core.gain[level][candidate[keep]]
        pair = (candidate[keep] * count + state[keep]).astype(np.int32)
        if len(keep) <= _WORTH_SORTING:
            return left, gain, pair
        keep = undominated(left, gain)
        return left[:, keep], gain[keep], pair[keep]

    def _tighten(self, depth: int, states: States, need: float) -> States:
        """Drop more states with planes that are made for some of them."""
        self.wait -= 1
        if self.wait >= 0 or depth == self.core.levels:
            return states
        for cut in range(_CUTS):
            count = len(states.gain)
            if count < _WORTH_A_CUT or self.planes.full:
                break
            middle = int(np.argpartition(states.bound, count // 2)[count // 2])
            states = self._cut(depth, states, middle if cut else int(states.bound.argmax()))
            states = states.reaching(need)
            useful = len(states.gain) < (1 - _TOO_LITTLE) * count
            self.rest = 1 if useful else min(2 * self.rest, _LONGEST_BREAK)
            if not useful:
                self.wait = self.rest
                break
        return states

    def _cut(self, depth: int, states: States, example: int) -> States:
        first, second = states.left[:, example].tolist()
        plane = self.planes.add_tightest(depth, (first, second), int(states.plane[example]))
        self.work.steps_left -= _CUT_STEPS * len(self.core.gain)
        bound = self.planes.bound_on(plane, depth, states.left, states.gain)
        better = bound < states.bound
        return replace(
            states,
            plane=np.where(better, plane, states.plane),
            bound=np.where(better, bound, states.bound),
        )

    def _room(self, depth: int) -> int:
        """How many states may pass to the next level, so that the work lasts to the end."""
        if depth + 1 == self.core.levels:
            return self.beam
        begin, end, last = (int(self.core.ends[i]) for i in (depth + 1, depth + 2, -1))
        fair = max(0, self.work.steps_left) // (last - begin)
        return max(1, min(self.beam, fair, _MOST_PAIRS // (end - begin)))

    def _within_beam(self, states: States, room: int) -> States:
        if len(states.gain) <= room:
            return states
        order = np.argpartition(-states.bound, room)
        self.dropped = max(self.dropped, float(states.bound[order[room:]].max()))
        return states.take(np.sort(order[:room]))


def _picks(core: TwoCore, trace: _Trace, state: int) -> dict[int, int]:
    """The decisions that led to ``state`` of the last level in ``trace``."""
    picks = {}
    for depth, pair, count in reversed(trace):
        candidate, state = divmod(int(pair[state]), count)
        picks[int(core.group[depth])] = int(core.position[core.ends[depth] + candidate])
    return picks
