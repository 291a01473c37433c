"""All increments along the hulls, steepest first, and the plans between them.

A plan is not stored. Each candidate of a hull knows from which plan on it is held, so a plan is
found by one search in a sorted array.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.frontier.hull import Hulls

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Increments:
    """The steps from the cheapest plan to the most valuable one; from these come the choices.

    Positions are those of the normal form.
    """

    start: IntArray
    """[groups + 1]"""
    cost: IntArray
    """[positions] above the cheapest of the group"""
    candidate: IntArray
    """[positions] index in the group as it was given"""
    hull: IntArray
    """[hull points] the positions that plans hold, ascending"""
    entry: IntArray
    """[hull points] group * plans + the first plan that holds it, ascending"""
    before: IntArray
    after: IntArray
    """[plans - 1] the positions between which each step goes"""

    def positions_of(self, plan: int) -> IntArray:
        """[groups] the positions that one plan holds."""
        groups, plans = len(self.start) - 1, len(self.after) + 1
        last = np.searchsorted(self.entry, np.arange(groups) * plans + plan, side="right") - 1
        return self.hull[last]

    def part(self, plan: int, left: int) -> tuple[int, int]:
        """The positions between which the step after ``plan`` goes if it may cost only ``left``."""
        before, after = int(self.before[plan]), int(self.after[plan])
        between = self.cost[before + 1 : after]
        fit = np.searchsorted(between, int(self.cost[before]) + left, side="right")
        return before, before + int(fit)


def increments(found: Hulls) -> tuple[Increments, FloatArray]:
    """The steps in the order of their rates, and [plans] the value per cost of the next one."""
    hull = np.flatnonzero(found.rate >= 0)
    steps = np.flatnonzero(np.isfinite(found.rate[hull]))
    # Stable: of equal rates the earlier group, and the earlier point of a group, comes first.
    order = steps[np.argsort(-found.rate[hull[steps]], kind="stable")]
    entry = found.form.owner(hull) * (len(order) + 1)
    entry[order] += np.arange(1, len(order) + 1)
    ends = hull[order - 1], hull[order]
    arrays = (found.form.start, found.form.cost[0], found.form.origin, hull, entry, *ends)
    price = np.append(np.ldexp(found.rate[ends[1]], -found.exponent), 0.0)
    return Increments(*(frozen(array) for array in arrays)), price


def frozen(array: NDArray[Number]) -> NDArray[Number]:
    """``array``, from now on read-only."""
    array.setflags(write=False)
    return array
