"""The candidates worth their price, with gains in whole numbers.

A candidate worth no more than a cheaper one of its group is in no plan that is worth looking at.
What is left rises in cost and in value. Gains above the cheapest candidate are put on a grid of
2**60 steps for the whole problem, in int64, so that sums of many steps are exact in any order; the
grid is finer than float64 for every group that matters.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form.dominance import undominated
from gacfx.knapsack.normal_form.lattice import Flat

_GRID_BITS = 60


@dataclass(frozen=True)
class Rising:
    """Candidates, here called points, one group after the other, cheapest first."""

    start: IntArray
    """[groups + 1] group i owns the points ``start[i]:start[i + 1]``; each group has one"""
    owner: IntArray
    """[points] the group of each"""
    candidate: IntArray
    """[points] index of the candidate in its group as it was given"""
    cost: IntArray
    """[points] above the first of the group, strictly ascending in a group"""
    gain: IntArray
    """[points] grid steps above the first of the group, ascending in a group"""
    exponent: int
    """A grid step is worth 2**-exponent"""
    base: float
    """What the first points of all groups are worth together"""

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def steps(self) -> IntArray:
        """Indices of all points but the first of each group."""
        inside = np.ones(len(self.cost), np.bool_)
        inside[self.start[:-1]] = False
        return np.flatnonzero(inside)

    @property
    def top(self) -> IntArray:
        """[groups] the largest gain of each group."""
        return self.gain[self.start[1:] - 1]

    def worth(self, gain: float) -> float:
        """Grid steps as a value."""
        return math.ldexp(gain, -self.exponent)

    def values(self, gain: FloatArray) -> FloatArray:
        """Gains above the cheapest plan, in grid steps -> values of whole plans, in place."""
        np.ldexp(gain, -self.exponent, out=gain)
        gain += self.base
        return gain


def rising(flat: Flat) -> Rising:
    """The points of every group of ``flat``."""
    position = np.arange(len(flat.cost))
    owner = np.repeat(np.arange(flat.groups), flat.sizes)
    start = flat.start
    falls = flat.value[1:] <= flat.value[:-1]
    falls[start[1:-1] - 1] = False
    if falls.any():
        position = undominated(flat, position, owner)
        owner = owner[position]
        start = np.searchsorted(owner, np.arange(flat.groups + 1))
    value = flat.value[position]
    first = value[start[:-1]]
    gain = value - first[owner]
    exponent = _GRID_BITS - math.frexp(float(gain[start[1:] - 1].sum()))[1]
    whole = np.rint(np.ldexp(gain, exponent)).astype(np.int64)
    return Rising(
        start=start,
        owner=owner,
        candidate=position - flat.start[owner] if flat.origin is None else flat.origin[position],
        cost=flat.cost[position],
        gain=whole,
        exponent=exponent,
        base=math.fsum(first.tolist()),
    )
