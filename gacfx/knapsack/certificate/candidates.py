"""The candidates of a problem side by side, and which of them may be best at some prices.

A check in exact fractions of all candidates would be slow, and is not needed: where float64 is
sure, beyond all that rounding can do, that another candidate of the group is worth more, the exact
number of the lesser one is of no interest.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.problem import Problem

Number = TypeVar("Number", np.int64, np.float64, np.bool_)


@dataclass(frozen=True)
class Candidates:
    """One group after the other, as they were given."""

    start: IntArray
    """[groups + 1] group i owns ``start[i]:start[i + 1]``"""
    costs: tuple[IntArray, ...]
    """[1 + limits] [candidates] under the budget and each limit"""
    value: FloatArray
    least: IntArray
    """[groups] the smallest cost under the budget"""

    def spread(self, per_group: NDArray[Number]) -> NDArray[Number]:
        """[groups] -> [candidates]"""
        return np.repeat(per_group, np.diff(self.start))

    def usable_budget(self, budget: int) -> int:
        """The largest total that the costs can form within ``budget``, as far as the gcd tells."""
        least: int = sum(self.least.tolist())
        step = int(np.gcd.reduce(self.costs[0] - self.spread(self.least))) or 1
        return least + (budget - least) // step * step

    def fitting(self, usable_budget: int) -> NDArray[np.bool_]:
        """[candidates] those within the budget beside the cheapest of all other groups."""
        room = usable_budget - sum(self.least.tolist())
        fits: NDArray[np.bool_] = self.costs[0] <= self.spread(self.least + room)
        return fits

    def maybe_best(self, prices: list[float], fits: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[candidates] those of ``fits`` that float64 cannot exclude from being the best.

        With k products and as many sums, each off by 2**-53 of itself, and costs rounded to
        float64, the error is below 2**-52 (k + 4) times the sum of all sizes, but for products
        that are next to nothing.
        """
        reduced, size, terms = self.value.copy(), np.abs(self.value), len(prices) + 8.0
        with np.errstate(over="ignore", invalid="ignore"):
            for price, cost in zip(prices, self.costs, strict=True):
                charge = price * cost.astype(np.float64)
                reduced -= charge
                size += charge
            error = math.ldexp(terms, -52) * size + math.ldexp(terms, -1074)
            surely = np.where(np.isfinite(error) & fits, reduced - error, -np.inf)
            worse = reduced + error < self.spread(np.maximum.reduceat(surely, self.start[:-1]))
        return fits & ~worse


def candidates_of(problem: Problem) -> Candidates:
    """All candidates of a problem."""
    sizes = [len(group.costs) for group in problem.groups]
    start = np.cumsum([0, *sizes])
    zeros = np.zeros(max(sizes, default=0), np.int64)
    rows = [np.concatenate([zeros[:0], *(group.costs for group in problem.groups)])]
    for limit in problem.limits:
        named = [limit.costs.get(g.name, zeros[: len(g.costs)]) for g in problem.groups]
        rows.append(np.concatenate([zeros[:0], *named]))
    value = np.concatenate([np.zeros(0), *(group.values for group in problem.groups)])
    least = np.minimum.reduceat(rows[0], start[:-1])
    return Candidates(start, tuple(rows), value, least)
