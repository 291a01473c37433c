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

from gacfx.planning.arrays import IntArray
from gacfx.planning.core_dp import Work, search
from gacfx.planning.core_problem import Core, Order, build
from gacfx.planning.fixing import Near
from gacfx.planning.lattice import Flat
from gacfx.planning.relaxation import Relaxed

_ROUNDS: tuple[tuple[float, int, Order], ...] = (
    (1 / 16, 16, "wide"),
    (1 / 2, 16, "wide"),
    (1.0, 256, "near"),
    (1.0, 4096, "wide"),
    (1.0, 65536, "wide"),
)
"""Share of the distance that a round looks at, its beam, and its order of groups"""
_SMALL_CORE = 2000
"""Candidates, beyond one per group, that need no bets"""


@dataclass
class Rounds:
    """The best plan so far and what is proven about it; gains count from the relaxed plan."""

    flat: Flat
    relaxed: Relaxed
    near: Near
    tolerance: float
    """Value by which the result may miss the best"""
    work: Work
    chosen: IntArray
    upper: float
    """No plan gains more"""
    rounding: float = 0.0
    """What the grid of the last round can hide"""
    proven: bool = False
    blurred: int = 0
    core_groups: int = 0
    core_candidates: int = 0

    @property
    def gain(self) -> float:
        base = self.relaxed.chosen
        return math.fsum(self.flat.value[self.chosen] - self.flat.value[base])

    def run(self) -> None:
        """Search until the plan is proven, good enough, or the work is used up."""
        if self._proven_by_relaxation():
            return
        won = False
        for share, beam, order in _ROUNDS:
            gain = self.gain
            distance = self.upper - gain
            if distance <= self.tolerance or self.work.spent():
                return
            if share < 1 and (won or self._is_small(distance)):
                continue
            floor = gain + (self.tolerance if share == 1 else (1 - share) * distance)
            complete, won_now = self._round(floor, beam, order)
            won |= won_now
            if complete and (won_now or share == 1):
                self.proven = self.tolerance == 0
                return

    def _proven_by_relaxation(self) -> bool:
        """True if the plan meets the Lagrangian bound, but for the dust of float64."""
        distance = self.upper - self.gain
        if distance > 2 * self.flat.groups * self.near.margin:
            return False
        whole = distance < 0.5 and bool((self.flat.value == np.rint(self.flat.value)).all())
        self.rounding = 0.0 if whole else distance
        self.proven = True
        return True

    def _is_small(self, distance: float) -> bool:
        return int(np.count_nonzero(self.near.loss <= distance)) < self.flat.groups + _SMALL_CORE

    def _round(self, floor: float, beam: int, order: Order) -> tuple[bool, bool]:
        """Look for plans that gain more than ``floor``: (is that exhausted, was one found)."""
        within = self.near.within(self.near.slack - floor)
        core = build(self.flat, self.relaxed, within, order)
        if core is None:  # some group has no candidate left, so no plan gains more
            self.upper, self.rounding = min(self.upper, floor), 0.0
            return True, False
        self.core_groups, self.core_candidates = len(core.levels), core.candidates
        self.blurred, self.rounding = core.blurred, core.rounding
        found = search(
            core,
            self.relaxed.left,
            floor=_steps(core, floor),
            tolerance=_steps(core, self.tolerance),
            beam=beam,
            work=self.work,
        )
        # Candidates outside this core are in no plan above the floor, but they may be in one at it.
        reached = math.ldexp(found.bound, -core.exponent) + core.rounding
        self.upper = min(self.upper, max(floor, reached))
        if found.picks:
            self._take(found.picks)
        return found.complete, bool(found.picks)

    def _take(self, picks: dict[int, int]) -> None:
        plan = self.relaxed.chosen.copy()
        plan[list(picks)] = list(picks.values())
        if math.fsum(self.flat.value[plan] - self.flat.value[self.chosen]) > 0:
            self.chosen = plan


def _steps(core: Core, value: float) -> float:
    """Whole units of the core's grid, rounded down; at most 2**60, which no core can gain."""
    low = min(value, math.ldexp(1.0, 60 - core.exponent))
    return math.floor(math.ldexp(low, core.exponent) / core.unit) * core.unit
