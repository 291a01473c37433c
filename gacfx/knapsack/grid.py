"""Gains as whole numbers, so that all later sums and comparisons are exact on every machine.

Gains are counted from a given plan and put on a grid of 2**46 steps for the core alone. The grid is
as fine as the core is small: candidates that were fixed before do not stretch it.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray

_GRID_BITS = 46
_MOST_STEPS = 60  # bits; no core can gain so much
TOP = 2.0**_GRID_BITS
"""No sum of gains, one from each group, is larger"""


@dataclass(frozen=True)
class Grid:
    """How gains became whole numbers."""

    exponent: int
    """A grid step is 2**-exponent"""
    unit: float
    """All gains are multiples of this number of grid steps"""
    rounding: float
    """Most value that the grid can hide in a plan, 0 if every gain lies on it"""
    blurred: int
    """Groups whose gains differ, but not on the grid"""

    def floor(self, value: float) -> float:
        """Whole units, rounded down, in grid steps; at most 2**60 either way."""
        most = math.ldexp(1.0, _MOST_STEPS - self.exponent)
        fine = math.ldexp(max(-most, min(value, most)), self.exponent)
        return math.floor(fine / self.unit) * self.unit


def on_grid(value: FloatArray, start: FloatArray, ends: IntArray) -> tuple[FloatArray, Grid]:
    """[candidates] gains in grid steps, and the grid.

    Args:
        value: [candidates]
        start: [candidates] value of the given plan's candidate in the same group.
        ends: [groups + 1] where the groups begin, and the end.
    """
    gain = value - start
    # Knuth's error of a difference: 0 where float64 holds it exactly.
    back = gain - value
    exact = not np.any((value - (gain - back)) - (start + back))
    largest = np.maximum.reduceat(np.abs(gain), ends[:-1]) if len(gain) else gain
    exponent = _GRID_BITS - math.frexp(float(largest.sum()) or 1.0)[1]
    fine = np.ldexp(gain, exponent)
    whole = np.rint(fine)
    exact = exact and not np.any(whole != fine)
    grid = Grid(
        exponent=exponent,
        unit=float(np.gcd.reduce(whole.astype(np.int64))) or 1.0,
        # Half a step per candidate on either side of a comparison, and the dust of a difference.
        rounding=0.0 if exact else math.ldexp(float(len(ends)), -exponent),
        blurred=int(np.count_nonzero((largest > 0) & (np.ldexp(largest, exponent) <= 0.5))),
    )
    return whole, grid
