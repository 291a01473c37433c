"""The core: groups that are still open in the order of search, with bounds for unfinished plans.

An unfinished plan that has gained ``g`` and leaves ``r`` (negative: overspent) ends no better than

    g + p * r + sum over open groups of max_j (gain_j - p * cost_j)        for every price p >= 0.

One price gives a straight line in r. A score of prices around the multiplier gives nearly the
linear relaxation of what is open; which of the lines is lowest depends on r alone, so it is found
by bisection.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.grid import TOP, Grid
from gacfx.knapsack.one_budget.items import Items, Number

_PRICES = 10  # on each side of the multiplier
_PRICE_RANGE = 1e-6  # of the largest rate, and not below the 2 % quantile
_LARGEST_TABLE = 2**22  # entries, candidates x prices


@dataclass(frozen=True)
class Scale:
    """What a core has in common with the smaller ones that are made from it during the search."""

    grid: Grid
    groups: int
    reach: int
    """No plan leaves or overspends more"""

    def dust(self, price: FloatArray) -> FloatArray:
        """More than what float64 can get wrong in a bound at each price."""
        return math.ldexp(self.groups + 8.0, -52) * (TOP + price * self.reach)


@dataclass(frozen=True)
class Core:
    """Groups in the order of search, and bounds between them; a level decides one group."""

    items: Items
    ends: list[int]
    """[levels + 1] level i owns the candidates ``ends[i]:ends[i + 1]``"""
    price: FloatArray
    """[prices] grid steps per unit of cost, ascending"""
    loss: FloatArray
    """[prices, candidates] grid steps below the best candidate of the level"""
    tail: FloatArray
    """[levels + 1, prices] the sum in the bound over the levels from here on, rounded up"""
    turns: FloatArray
    """[levels + 1, prices - 1] what has to be overspent for the next price to bound better"""
    savings: IntArray
    """[levels + 1] the most that the levels from here on can spend less"""
    scale: Scale

    @property
    def levels(self) -> int:
        return len(self.ends) - 1

    def bound(self, depth: int, left: IntArray, gain: FloatArray) -> tuple[IntArray, FloatArray]:
        """The index of the price that bounds states before level ``depth`` best, and the bound."""
        line = np.searchsorted(self.turns[depth], -left)
        return line, gain + self.price[line] * left + self.tail[depth][line]


def build(items: Items, grid: Grid, multiplier: float, left: int) -> Core:
    """The core of what is open.

    Args:
        items: the open groups.
        grid: of their gains.
        multiplier: of the relaxation, value per unit of cost.
        left: what the relaxed plan leaves.
    """
    reach = abs(left) + int(items.top(np.abs(items.cost)).sum())
    # Widest steps first: the relaxation of the narrow ones that remain is nearly exact.
    widest = np.argsort(-items.top(np.abs(items.cost)), kind="stable")
    scale = Scale(grid, items.groups, reach)
    return _core(items.turned(widest), math.ldexp(multiplier, grid.exponent), scale)


def narrowed(
    core: Core, depth: int, most: FloatArray, multiplier: float
) -> tuple[Core | None, IntArray]:
    """What is still open before level ``depth`` when no plan may lose more than ``most``.

    Args:
        core: the core so far.
        depth: levels before it are decided.
        most: [prices] what the plans that this price bounds best can lose, or less than 0.
        multiplier: a good price for them.

    Returns:
        A core without the candidates that no plan can hold; None if only one is left everywhere.
        And the candidates of ``core`` that are the only ones left of their level.
    """
    begin = core.ends[depth]
    kept = begin + np.flatnonzero((core.loss[:, begin:] <= most[:, None]).any(axis=0))
    level = np.searchsorted(core.items.ends, kept, side="right")
    is_open = np.bincount(level)[level] > 1
    forced, kept = kept[~is_open], kept[is_open]
    if not len(kept):
        return None, forced
    return _core(core.items.some(kept), multiplier, core.scale), forced


def _core(items: Items, multiplier: float, scale: Scale) -> Core:
    price = np.array([multiplier])
    if items.groups > 1:
        price = _prices(multiplier, items)
    reduced = items.gain - price[:, None] * items.cost
    top = items.top(reduced)
    tail = _suffix_sum(top.T) + scale.dust(price)
    return Core(
        items=items,
        ends=items.ends.tolist(),
        price=price,
        loss=np.repeat(top, items.sizes, axis=1) - reduced,
        tail=tail,
        turns=(tail[:, 1:] - tail[:, :-1]) / (price[1:] - price[:-1]),
        savings=_suffix_sum(np.maximum(items.top(-items.cost), 0)),
        scale=scale,
    )


def _prices(multiplier: float, items: Items) -> FloatArray:
    """The multiplier, 0, and prices around it where choices change."""
    cost = items.cost
    count = min(_PRICES, (_LARGEST_TABLE // len(cost) - 2) // 2)
    rate = (multiplier * cost - items.gain) / np.maximum(np.abs(cost), 1)
    away = []
    for side in (1, -1):  # dearer candidates become worth it at lower prices
        rates = np.sort(rate[(np.sign(cost) == side) & (rate > 0)])
        away.append(np.zeros(0))
        if len(rates) and count > 0:
            lowest = max(rates[len(rates) // 50], rates[-1] * _PRICE_RANGE)
            share = np.arange(count) / max(1, count - 1)
            away[-1] = lowest * (rates[-1] / lowest) ** share
    every = np.concatenate(([0.0], multiplier - away[0][::-1], [multiplier], multiplier + away[1]))
    every = every[every >= 0]
    different: FloatArray = every[np.append(True, every[1:] > every[:-1])]
    return different


def _suffix_sum(rows: NDArray[Number]) -> NDArray[Number]:
    """[n, ...] -> [n + 1, ...]: sum of the rows from each one on; the last is 0."""
    total = np.zeros((len(rows) + 1, *rows.shape[1:]), rows.dtype)
    total[:-1] = np.cumsum(rows[::-1], axis=0)[::-1]
    return total
