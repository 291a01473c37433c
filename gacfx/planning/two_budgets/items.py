"""The core of two resources: what is left to decide, on an integer grid, level by level.

Gains are counted from the plan that is best at the dual prices, on a grid of 2**46 steps for the
core alone, so that all sums and comparisons are exact in float64, and the same on every machine.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.planning.arrays import FloatArray, IntArray, run_ends
from gacfx.planning.two_budgets.dual import Dual
from gacfx.planning.two_budgets.flat import TwoFlat
from gacfx.planning.two_budgets.lagrange import Price

Number = TypeVar("Number", np.int64, np.float64)

GRID_BITS = 46
_MOST_PRICE = 600  # bits
_MOST_STEPS = 60  # bits; no core can gain so much


@dataclass(frozen=True)
class TwoCore:
    """The candidates of the open groups in the order of search; one level decides one group."""

    group: IntArray
    """[levels]"""
    ends: IntArray
    """[levels + 1] level i owns the candidates ``ends[i]:ends[i + 1]``"""
    position: IntArray
    """[candidates]"""
    cost: IntArray
    """[2, candidates] above the chosen plan; may be negative"""
    gain: FloatArray
    """[candidates] grid steps above the chosen plan; whole numbers"""
    loss: FloatArray
    """[candidates] grid steps lost at the dual prices"""
    step_loss: FloatArray
    """[levels] the smallest loss of a candidate other than the chosen plan's"""
    savings: IntArray
    """[2, levels + 1] the most that the levels from here on can spend less"""
    spending: IntArray
    """[2, levels + 1] the most that they can spend more"""
    unit: float
    """All gains are multiples of this number of grid steps"""
    exponent: int
    """A grid step is 2**-exponent"""
    rounding: float
    """Most value that the grid can hide, 0 if every gain lies on it"""
    blurred: int
    """Groups whose gains differ, but not on the grid"""

    @property
    def levels(self) -> int:
        return len(self.group)

    def top(self, numbers: NDArray[Number]) -> NDArray[Number]:
        """[..., candidates] -> [..., levels] the largest of each level."""
        return _tops(numbers, self.ends)

    def spread(self, numbers: NDArray[Number]) -> NDArray[Number]:
        """[..., levels] -> [..., candidates]"""
        return np.repeat(numbers, self.ends[1:] - self.ends[:-1], axis=-1)

    def priced(self, price: Price) -> Price:
        """Prices in grid steps, but none beyond what float64 can multiply."""
        most = math.ldexp(1.0, min(_MOST_PRICE, _MOST_PRICE - self.exponent))
        first, second = (math.ldexp(min(each, most), self.exponent) for each in price)
        return first, second

    def steps(self, value: float) -> float:
        """Whole units of the grid, rounded down; at most what no core can gain or lose."""
        most = math.ldexp(1.0, _MOST_STEPS - self.exponent)
        fine = math.ldexp(max(-most, min(value, most)), self.exponent)
        return math.floor(fine / self.unit) * self.unit


def build_two(flat: TwoFlat, dual: Dual, distance: float) -> TwoCore:
    """The core of all candidates that lose at most ``distance``."""
    near = dual.within(distance)
    owner = flat.owner(near)
    is_open = np.bincount(owner, minlength=flat.groups)[owner] > 1
    position, owner = near[is_open], owner[is_open]
    ends = run_ends(owner) if len(owner) else np.zeros(1, np.int64)
    cost = flat.cost[:, position] - flat.cost[:, dual.chosen[owner]]
    turn = _order(dual, cost, ends)
    sizes = np.diff(ends)[turn]
    begins = np.cumsum(sizes) - sizes
    take = np.repeat(ends[turn] - begins, sizes) + np.arange(len(position))
    ends = np.append(begins, len(position))
    return _on_grid(flat, dual, position[take], owner[take], cost[:, take], ends)


def suffix_sums(numbers: NDArray[Number]) -> NDArray[Number]:
    """[..., n] -> [..., n + 1] sum of the numbers from each one on; the last is 0."""
    total = np.zeros((*numbers.shape[:-1], numbers.shape[-1] + 1), numbers.dtype)
    total[..., :-1] = np.cumsum(numbers[..., ::-1], axis=-1)[..., ::-1]
    return total


def _order(dual: Dual, cost: IntArray, ends: IntArray) -> IntArray:
    """The widest steps first: the relaxation of the rest is then nearly exact.

    Groups that differ in one resource only come last, when the room of the other is settled.
    """
    width = _tops(np.abs(cost), ends)
    priced = width[0] * dual.price[0] + width[1] * dual.price[1]
    return np.lexsort((-priced, -np.count_nonzero(width, axis=0)))


def _on_grid(
    flat: TwoFlat, dual: Dual, position: IntArray, owner: IntArray, cost: IntArray, ends: IntArray
) -> TwoCore:
    base = dual.chosen[owner]
    value, start = flat.value[position], flat.value[base]
    gain = value - start
    # Knuth's error of a difference: 0 where float64 holds it exactly.
    back = gain - value
    off = np.any((value - (gain - back)) - (start + back))
    largest = _tops(np.abs(gain), ends)
    exponent = GRID_BITS - math.frexp(float(largest.sum()) or 1.0)[1]
    fine = np.ldexp(gain, exponent)
    whole = np.rint(fine)
    loss = np.ldexp(dual.loss[position], exponent)
    exact = not off and not np.any(whole != fine)
    return TwoCore(
        group=owner[ends[:-1]],
        ends=ends,
        position=position,
        cost=cost,
        gain=whole,
        loss=loss,
        step_loss=-_tops(np.where(position == base, -np.inf, -loss), ends),
        savings=suffix_sums(np.maximum(_tops(-cost, ends), 0)),
        spending=suffix_sums(np.maximum(_tops(cost, ends), 0)),
        unit=float(np.gcd.reduce(whole.astype(np.int64))) or 1.0,
        exponent=exponent,
        # Half a step per candidate on either side of a comparison, and the dust of a difference.
        rounding=0.0 if exact else math.ldexp(float(len(ends)), -exponent),
        blurred=int(np.count_nonzero((largest > 0) & (_tops(np.abs(whole), ends) == 0))),
    )


def _tops(numbers: NDArray[Number], ends: IntArray) -> NDArray[Number]:
    """[..., candidates] -> [..., runs] the largest of each run."""
    if len(ends) == 1:
        return numbers[..., :0]
    largest: NDArray[Number] = np.maximum.reduceat(numbers, ends[:-1], axis=-1)
    return largest
