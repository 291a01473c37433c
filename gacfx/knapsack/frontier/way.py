"""The way of the frontier: all steps along the hulls, steepest first, and the plans between them.

A plan is not stored. Each point of a hull knows from which plan on it is held, so a plan is found
by one search in a sorted array.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.frontier.hull import entry_rates
from gacfx.knapsack.frontier.rising import Rising

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Way:
    """The steps from the cheapest plan to the most valuable one; from these come the choices.

    Points are the candidates worth more than every cheaper one, group after group (``Rising``).
    """

    start: IntArray
    """[groups + 1] group i owns the points ``start[i]:start[i + 1]``"""
    cost: IntArray
    """[points] above the cheapest of the group"""
    candidate: IntArray
    """[points] index in the group as it was given"""
    hull: IntArray
    """[hull points] the points that plans on the way hold, ascending"""
    entry: IntArray
    """[hull points] group * plans + the first plan that holds the point, ascending"""
    before: IntArray
    after: IntArray
    """[plans - 1] the points between which each step goes"""

    def points_of(self, plan: int) -> IntArray:
        """[groups] the points that one plan holds."""
        groups, plans = len(self.start) - 1, len(self.after) + 1
        last = np.searchsorted(self.entry, np.arange(groups) * plans + plan, side="right") - 1
        return self.hull[last]

    def part(self, plan: int, left: int) -> tuple[int, int]:
        """The points between which the step after ``plan`` goes if it may cost only ``left``."""
        before, after = int(self.before[plan]), int(self.after[plan])
        between = self.cost[before + 1 : after]
        fit = np.searchsorted(between, int(self.cost[before]) + left, side="right")
        return before, before + int(fit)


def way_over(points: Rising) -> tuple[Way, FloatArray]:
    """The steps in the order of their rates, and [plans] the value per cost of the next one."""
    rate = entry_rates(points)
    hull = np.flatnonzero(rate >= 0)
    steps = np.flatnonzero(np.isfinite(rate[hull]))
    # Stable: of equal rates the earlier group, and the earlier point of a group, comes first.
    order = steps[np.argsort(-rate[hull[steps]], kind="stable")]
    entry = points.owner[hull] * (len(order) + 1)
    entry[order] += np.arange(1, len(order) + 1)
    ends = hull[order - 1], hull[order]
    arrays = (points.start, points.cost, points.candidate, hull, entry, *ends)
    price = np.append(np.ldexp(rate[ends[1]], -points.exponent), 0.0)
    return Way(*(frozen(array) for array in arrays)), price


def frozen(array: NDArray[Number]) -> NDArray[Number]:
    """``array``, from now on read-only."""
    array.setflags(write=False)
    return array
