"""What is known about a problem of two budgets while it is being solved: a plan and a bound."""

import math
from dataclasses import dataclass, field

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.two_budgets.dual import Dual
from gacfx.knapsack.two_budgets.flat import TwoFlat
from gacfx.knapsack.work import Work


@dataclass
class Progress:
    """The best plan so far and what is proven about it; gains count from the dual's plan."""

    flat: TwoFlat
    dual: Dual
    tolerance: float
    """Value by which the result may miss the best"""
    work: Work
    chosen: IntArray | None
    """[groups] positions of a plan that keeps both rooms, if one is known"""
    upper: float = field(init=False)
    """No plan gains more"""
    rounding: float = 0.0
    """What the grids of the searches that proved something can hide"""
    proven: bool = False
    """The search was exhausted: ``chosen`` is best, or there is no plan at all"""
    blurred: int = 0
    core_groups: int = 0
    core_candidates: int = 0
    planes: int = 0
    """Most planes of a round"""
    looked_at: int = 0
    """Most entries of a search by halves"""
    branches: int = 0
    """Parts into which the problem was split"""

    def __post_init__(self) -> None:
        self.upper = self.dual.slack
        # The searches look at what follows from the dual's plan, not at that plan itself.
        if self.chosen is None and min(self.flat.left(self.dual.chosen)) >= 0:
            self.chosen = self.dual.chosen

    @property
    def gain(self) -> float:
        """What the plan gains; -inf if there is none."""
        return -math.inf if self.chosen is None else self.gain_of(self.chosen)

    def gain_of(self, plan: IntArray) -> float:
        """What any plan gains."""
        return math.fsum(self.flat.value[plan] - self.flat.value[self.dual.chosen])

    def take(self, plan: IntArray) -> None:
        """Keep a plan if it is the best so far; it must keep both rooms."""
        if self.gain_of(plan) > self.gain:
            self.chosen = plan

    def good_enough(self) -> bool:
        """True if the plan is proven, within the tolerance, or at the bound but for dust."""
        distance = self.upper - self.gain
        if self.proven or distance <= self.tolerance:
            return True
        if distance > 2 * self.flat.groups * self.dual.margin:
            return False
        whole = distance < 0.5 and bool((self.flat.value == np.rint(self.flat.value)).all())
        self.rounding = 0.0 if whole else distance
        self.proven = True
        return True
