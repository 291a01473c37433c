"""The upper concave hull of every group: at which price does each candidate come in?

A line that falls onto the candidates of a group touches only its hull. Gains above the cheapest
candidate are put on a grid of 2**60 steps for the whole problem, so that sums of many steps are
exact in any order and the hull is decided in whole numbers; the grid is finer than float64 for
every group that matters. Candidates on a chord belong to the hull too, so curves that are straight
but for rounding keep all their candidates.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form import NormalForm

_GRID_BITS = 60
_DUST = 2.0**-48  # of the largest gain of a group


@dataclass(frozen=True)
class Hulls:
    """The candidates of a normal form, with gains in whole numbers and the prices they come in."""

    form: NormalForm
    gain: IntArray
    """[positions] grid steps above the first of the group, never falling in a group"""
    rate: FloatArray
    """[positions] gain per unit of cost at which each comes in, never rising in a group; inf for
    the first of a group, -1 for those below the hull"""
    exponent: int
    """A grid step is worth 2**-exponent"""
    base: float
    """What the first candidates of all groups are worth together"""
    dust: float
    """Grid steps, the sum over all groups: so near to its chord a candidate lies on it"""


def hulls(form: NormalForm) -> Hulls:
    """The hulls of all groups."""
    first = form.value[form.start[:-1]]
    gain = form.value - form.spread(first)
    exponent = _GRID_BITS - math.frexp(float(gain[form.start[1:] - 1].sum()))[1]
    whole = np.rint(np.ldexp(gain, exponent)).astype(np.int64)
    rate = np.empty(len(gain))
    total = 0.0
    for begin, end in pairwise(form.start.tolist()):
        dust = float(whole[end - 1]) * _DUST + 2.0  # two for the rounding to the grid
        rate[begin:end] = _rates(form.cost[0, begin:end], whole[begin:end], dust)
        total += dust
    return Hulls(form, whole, rate, exponent, math.fsum(first.tolist()), total)


def _rates(cost: IntArray, gain: IntArray, dust: float) -> FloatArray:
    """The rates of one group."""
    ends = np.array(_hull(cost.tolist(), gain.tolist()))
    slope = (gain[ends[1:]] - gain[ends[:-1]]) / (cost[ends[1:]] - cost[ends[:-1]])
    slope = np.minimum.accumulate(slope)  # rounding must not turn their order
    chord = np.searchsorted(ends, np.arange(1, len(cost))) - 1
    foot = ends[chord]
    below = slope[chord] * (cost[1:] - cost[foot]) - (gain[1:] - gain[foot])
    return np.append(np.inf, np.where(below <= dust, slope[chord], -1.0))


def _hull(cost: list[int], gain: list[int]) -> list[int]:
    """Indices of the corners, by Andrew's monotone chain in whole numbers."""
    ends = [0]
    for new in range(1, len(cost)):
        while len(ends) > 1:
            first, last = ends[-2:]
            rise, run = gain[new] - gain[last], cost[new] - cost[last]
            if (gain[last] - gain[first]) * run > rise * (cost[last] - cost[first]):
                break
            ends.pop()
        ends.append(new)
    return ends
