"""From a first plan to the best one: the core is searched, with a wider beam if need be.

A plan at distance d from the Lagrangian bound leaves only candidates that lose at most d, so a
better plan makes a smaller core. A search that need not drop a state is the proof.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.one_budget.core_problem import build
from gacfx.knapsack.one_budget.dynamic_program import search
from gacfx.knapsack.one_budget.items import opened
from gacfx.knapsack.one_budget.reduced_costs import Unfixed
from gacfx.knapsack.work import Work

_BEAMS = (1024, 65536)


@dataclass
class CoreSearch:
    """The best plan so far and what is proven about it; gains count from the relaxed plan."""

    near: Unfixed
    groups: int
    """All groups of the problem"""
    tolerance: float
    """Value by which the result may miss the best"""
    work: Work
    plan: IntArray
    """[open groups] candidates of ``near``"""
    upper: float
    """No plan gains more"""
    rounding: float = 0.0
    """What the grid of the last search can hide"""
    proven: bool = False
    blurred: int = 0
    core_groups: int = 0
    core_candidates: int = 0

    def __post_init__(self) -> None:
        self.gain = self.near.gain(self.plan)

    def run(self) -> None:
        """Search until the plan is proven, good enough, or the work is used up."""
        if self._proven_by_relaxation():
            return
        for beam in _BEAMS:
            if self.upper - self.gain <= self.tolerance or self.work.spent():
                return
            if self._search(self.gain + self.tolerance, beam):
                self.proven = self.tolerance == 0
                return

    def _proven_by_relaxation(self) -> bool:
        """True if the plan meets the Lagrangian bound, but for the dust of float64."""
        distance = self.upper - self.gain
        if distance > 2 * self.groups * self.near.margin:
            return False
        value = self.near.value
        whole = distance < 0.5 and bool((value == np.rint(value)).all())
        self.rounding = 0.0 if whole else distance
        self.proven = True
        return True

    def _search(self, floor: float, beam: int) -> bool:
        """Look for plans that gain more than ``floor``; is that exhausted?"""
        near = self.near
        distance = near.slack - floor
        if distance < -near.margin:  # even the best of every group lose too much
            self.upper, self.rounding = min(self.upper, floor), 0.0
            return True
        core = opened(near, near.within(distance))
        if core is None:
            self.upper, self.rounding = min(self.upper, max(floor, 0.0)), 0.0
            return True
        items, grid = core
        self.core_groups, self.core_candidates = items.groups, len(items.cost)
        self.blurred, self.rounding = grid.blurred, grid.rounding
        built = build(items, grid, near.multiplier, near.left)
        goal = grid.floor(floor), grid.floor(self.tolerance)
        found = search(built, near.left, *goal, beam, self.work)
        # Candidates outside this core are in no plan above the floor, but they may be in one at it.
        reached = math.ldexp(found.bound, -grid.exponent) + grid.rounding
        self.upper = min(self.upper, max(floor, reached))
        if found.picks:
            self._take(found.picks)
        return found.complete

    def _take(self, picks: list[int]) -> None:
        plan = self.near.base.copy()
        plan[self.near.owner[picks]] = picks
        gain = self.near.gain(plan)
        if gain > self.gain:
            self.plan, self.gain = plan, gain
