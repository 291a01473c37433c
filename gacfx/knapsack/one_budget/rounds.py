"""From a first plan to the best one: rounds of core search with ever wider beams.

A plan at distance d from the Lagrangian bound leaves only candidates that lose at most d, so a
better plan makes a smaller core. The first rounds are bets: they look only at a share of the
distance, for plans much better than the one at hand, with a beam of few states. A bet that is lost
lowers the bound; one that is won shrinks the core several times over. The later rounds look at all
that is left, and the one that need not drop a state is the proof.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.one_budget.core_dp import search
from gacfx.knapsack.one_budget.core_problem import build
from gacfx.knapsack.one_budget.fixing import Near
from gacfx.knapsack.one_budget.items import opened
from gacfx.knapsack.one_budget.small_core import search_small
from gacfx.knapsack.work import Work

_ROUNDS = ((1 / 16, 16), (1 / 2, 16), (1.0, 1024), (1.0, 65536))
"""Share of the distance that a round looks at, and its beam"""
_SMALL_CORE = 2000
"""Candidates, beyond one per group, that need no bets"""


@dataclass
class Rounds:
    """The best plan so far and what is proven about it; gains count from the relaxed plan."""

    near: Near
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
    """What the grid of the last round can hide"""
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
        won = False
        for share, beam in _ROUNDS:
            distance = self.upper - self.gain
            if distance <= self.tolerance or self.work.spent():
                return
            if share < 1 and (won or self._is_small(distance)):
                continue
            floor = self.gain + (self.tolerance if share == 1 else (1 - share) * distance)
            complete, won_now = self._round(floor, beam)
            won |= won_now
            if complete and (won_now or share == 1):
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

    def _is_small(self, distance: float) -> bool:
        return len(self.near.within(distance)) < len(self.near.group) + _SMALL_CORE

    def _round(self, floor: float, beam: int) -> tuple[bool, bool]:
        """Look for plans that gain more than ``floor``: (is that exhausted, was one found)."""
        near = self.near
        distance = near.slack - floor
        if distance < -near.margin:  # even the best of every group lose too much
            self.upper, self.rounding = min(self.upper, floor), 0.0
            return True, False
        core = opened(near, near.within(distance))
        if core is None:
            self.upper, self.rounding = min(self.upper, max(floor, 0.0)), 0.0
            return True, False
        grid = core.grid
        self.core_groups, self.core_candidates = core.items.groups, len(core.kept)
        self.blurred, self.rounding = grid.blurred, grid.rounding
        goal = grid.floor(floor), grid.floor(self.tolerance)
        found = search_small(near, core, *goal, self.work) or search(
            build(near, core, floor), near.left, *goal, beam, self.work
        )
        # Candidates outside this core are in no plan above the floor, but they may be in one at it.
        reached = math.ldexp(found.bound, -grid.exponent) + grid.rounding
        self.upper = min(self.upper, max(floor, reached))
        if found.picks:
            self._take(found.picks)
        return found.complete, bool(found.picks)

    def _take(self, picks: list[int]) -> None:
        plan = self.near.base.copy()
        plan[self.near.owner[picks]] = picks
        gain = self.near.gain(plan)
        if gain > self.gain:
            self.plan, self.gain = plan, gain
