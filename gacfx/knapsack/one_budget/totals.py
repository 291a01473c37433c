"""Which totals of cost and gain plans can have together, when both are whole numbers.

The candidates span a lattice: every plan's (cost, gain) is x * (width, rise) + y * (0, step) with
whole x and y. So a plan that costs at most c gains at most

    rise * c / width + step * y        for some whole y,

and a bound on its gain can be rounded down to such a number. That decides strongly correlated
problems, whose values are the costs plus multiples of a constant: no relaxation sees that the
constant comes in whole numbers only.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import IntArray

_FIRST = 32  # candidates that make the first guess
_SHARES = 64  # of a step that are tried
_LARGEST_STEP = 2**30  # so that products of remainders stay in int64


@dataclass(frozen=True)
class Totals:
    """The lattice of a plan's cost and gain above those of a given plan."""

    width: int
    rise: int
    """At least 0, and below ``step``"""
    step: int

    def rising_at_most(self, rate: float) -> "Totals | None":
        """This lattice, or a coarser one around it, whose tops rise slower with the cost.

        Tops at a rate above the price of a bound say nothing about that bound.
        """
        for share in range(1, _SHARES + 1):
            step = self.step // share
            if step * share == self.step > share and self.rise % step <= rate * self.width:
                return Totals(self.width, self.rise % step, step)
        return None

    def above(self, gain: int, cost: int) -> int:
        """The least top, not below ``gain``, of plans that cost at most ``cost``."""
        top = self.rise * (cost // self.width)
        return top - (top - gain) // self.step * self.step

    def below(self, gain: int, cost: int) -> int:
        """The largest top, not above ``gain``, of plans that cost at most ``cost``."""
        top = self.rise * (cost // self.width)
        return top + (gain - top) // self.step * self.step


def totals(cost: IntArray, gain: IntArray) -> Totals | None:
    """The lattice of some candidates, or None if it says nothing about gains.

    Args:
        cost: [candidates] above those of a given plan.
        gain: [candidates] likewise.
    """
    found, odd = (0, 0, 0), np.arange(min(_FIRST, len(cost)))
    while len(odd):
        for pair in zip(cost[odd].tolist(), gain[odd].tolist(), strict=True):
            found = _joined(*found, *pair)
        width, rise, step = found
        if not width or not 1 < step < _LARGEST_STEP:
            return None
        # Candidates off the lattice make it at least twice as fine, so there are few rounds.
        miss = gain - rise * (cost // width % step)
        odd = np.flatnonzero((cost % width != 0) | (miss % step != 0))[:_FIRST]
    return Totals(width, rise, step)


def _joined(width: int, rise: int, step: int, cost: int, gain: int) -> tuple[int, int, int]:
    """The lattice with one more candidate: (common divisor of costs, its gain, gain at no cost)."""
    divisor = math.gcd(width, cost)
    if divisor == 0:
        return 0, 0, math.gcd(step, gain)
    # Two vectors make one of cost ``divisor``, and one of no cost.
    a = pow(width // divisor, -1, abs(cost) // divisor) if abs(cost) > divisor else 0
    b = (divisor - a * width) // cost if cost else 0
    if not cost:
        a = 1
    rise, step = (
        a * rise + b * gain,
        math.gcd(step, cost // divisor * rise - width // divisor * gain),
    )
    return divisor, rise % step if step else rise, step
