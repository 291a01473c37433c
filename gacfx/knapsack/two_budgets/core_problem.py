"""The core of two resources: what is left to decide near the best plan at the dual prices."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray, run_ends
from gacfx.knapsack.grid import Grid, on_grid
from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.two_budgets.lagrangian import Price
from gacfx.knapsack.two_budgets.lagrangian_dual import Dual

Number = TypeVar("Number", np.int64, np.float64)

_MOST_PRICE = 600  # bits


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
    grid: Grid

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
        most = math.ldexp(1.0, min(_MOST_PRICE, _MOST_PRICE - self.grid.exponent))
        first, second = (math.ldexp(min(each, most), self.grid.exponent) for each in price)
        return first, second


def build_two(form: NormalForm, dual: Dual, distance: float) -> TwoCore:
    """The core of all candidates that lose at most ``distance``."""
    near = dual.within(distance)
    owner = form.owner(near)
    is_open = np.bincount(owner, minlength=form.groups)[owner] > 1
    position, owner = near[is_open], owner[is_open]
    ends = run_ends(owner) if len(owner) else np.zeros(1, np.int64)
    cost = form.cost[:, position] - form.cost[:, dual.chosen[owner]]
    turn = _order(dual, cost, ends)
    sizes = np.diff(ends)[turn]
    begins = np.cumsum(sizes) - sizes
    take = np.repeat(ends[turn] - begins, sizes) + np.arange(len(position))
    ends = np.append(begins, len(position))
    position, owner, cost = position[take], owner[take], cost[:, take]
    base = dual.chosen[owner]
    gain, grid = on_grid(form.value[position], form.value[base], ends)
    loss = np.ldexp(dual.loss[position], grid.exponent)
    return TwoCore(
        group=owner[ends[:-1]],
        ends=ends,
        position=position,
        cost=cost,
        gain=gain,
        loss=loss,
        step_loss=-_tops(np.where(position == base, -np.inf, -loss), ends),
        savings=suffix_sums(np.maximum(_tops(-cost, ends), 0)),
        spending=suffix_sums(np.maximum(_tops(cost, ends), 0)),
        grid=grid,
    )


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


def _tops(numbers: NDArray[Number], ends: IntArray) -> NDArray[Number]:
    """[..., candidates] -> [..., runs] the largest of each run."""
    if len(ends) == 1:
        return numbers[..., :0]
    largest: NDArray[Number] = np.maximum.reduceat(numbers, ends[:-1], axis=-1)
    return largest
