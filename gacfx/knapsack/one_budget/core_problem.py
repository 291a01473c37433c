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
from gacfx.knapsack.one_budget.fixing import Near
from gacfx.knapsack.one_budget.items import Items, Number, Opened, Selected
from gacfx.knapsack.one_budget.melting import Melted, melt
from gacfx.knapsack.one_budget.pairing import Joined, merge
from gacfx.knapsack.one_budget.totals import Totals, totals

Past = Selected | Melted | Joined
"""One step from the candidates of ``Near`` to those of a core; it can be undone"""

_MANY_GROUPS = 64  # from there on it pays to melt those that are alike
_PRICES = 10  # on each side of the multiplier
_PRICE_RANGE = 1e-6  # of the largest rate, and not below the 2 % quantile
_LARGEST_TABLE = 2**22  # entries, candidates x prices


@dataclass(frozen=True)
class Frame:
    """What a core has in common with those that are made from it during the search."""

    grid: Grid
    groups: int
    candidates: int
    """Both before groups were merged"""
    left: int
    """What the relaxed plan leaves"""
    reach: int
    """No plan leaves or overspends more"""
    totals: Totals | None
    """Which gains plans can have, in units of the grid; None: any"""

    @property
    def least_price(self) -> float:
        """Bounds at lower prices would not tell tops apart (see ``totals``)."""
        return self.grid.unit * self.totals.rise / self.totals.width if self.totals else 0.0

    def need(self, floor: float) -> float:
        """The least bound of a plan that gains more than ``floor``, a multiple of the unit."""
        unit = self.grid.unit
        if self.totals is None:
            return floor + unit
        return unit * self.totals.above(int(floor / unit) + 1, self.left)

    def reached(self, bound: float) -> float:
        """What plans can gain at most that are within ``bound``."""
        unit = self.grid.unit
        whole = math.floor(bound / unit)
        return unit * (self.totals.below(whole, self.left) if self.totals else whole)

    def distance(self, items: Items, multiplier: float, spare: float) -> float:
        """The most that the candidates of a good enough plan can lose at ``multiplier``.

        Not below 0: then no plan is good enough, but every group must keep a candidate.
        """
        best = float(items.top(items.gain - multiplier * items.cost).sum())
        return max(0.0, spare + best + float(self.dust(np.array(multiplier))))

    def dust(self, price: FloatArray) -> FloatArray:
        """More than what float64 can get wrong in a bound at each price."""
        return math.ldexp(self.groups + 8.0, -52) * (TOP + price * self.reach)


@dataclass(frozen=True)
class Core:
    """Levels in the order of search, and bounds between them.

    A level is a group, or several merged ones: candidates ``ends[level]:ends[level + 1]``.
    """

    items: Items
    ends: list[int]
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
    frame: Frame
    history: tuple[Past, ...]
    """How its candidates came from those of ``Near``, in order"""

    @property
    def levels(self) -> int:
        return len(self.ends) - 1

    def bound(self, depth: int, left: IntArray, gain: FloatArray) -> tuple[IntArray, FloatArray]:
        """The index of the price that bounds states before level ``depth`` best, and the bound."""
        line = np.searchsorted(self.turns[depth], -left)
        return line, gain + self.price[line] * left + self.tail[depth][line]

    def sources(self, candidates: list[int]) -> list[int]:
        """What some candidates stand for in ``Near``."""
        for step in reversed(self.history):
            candidates = step.undo(candidates)
        return candidates


def build(near: Near, opened: Opened, floor: float) -> Core:
    """The core of what is open, for plans that gain more than ``floor``."""
    items, grid = opened.items, opened.grid
    reach = abs(near.left) + int(items.top(np.abs(items.cost)).sum())
    multiplier = math.ldexp(near.multiplier, grid.exponent)
    found = None
    if grid.unit > 1:  # else gains are not whole numbers but for the grid
        found = totals(items.cost, (items.gain / grid.unit).astype(np.int64))
        found = found and found.rising_at_most(multiplier / grid.unit)
    frame = Frame(grid, items.groups, len(items.cost), near.left, reach, found)
    spare = multiplier * near.left - frame.need(grid.floor(floor))
    history: tuple[Past, ...] = (Selected(opened.kept),)
    if items.groups > _MANY_GROUPS:
        items, melted = melt(items, multiplier, frame.distance(items, multiplier, spare))
        history += (melted,)
    # Widest steps first: the relaxation of the narrow ones that remain is nearly exact.
    widest = np.argsort(-items.top(np.abs(items.cost)), kind="stable")
    items, turned = items.turned(widest)
    return _core(items, multiplier, spare, frame, (*history, Selected(turned)))


def narrowed(
    core: Core, depth: int, most: FloatArray, multiplier: float, spare: float
) -> tuple[Core | None, IntArray]:
    """What is still open before level ``depth`` when no plan may lose more than ``most``.

    Args:
        core: the core so far.
        depth: levels before it are decided.
        most: [prices] what the plans that this price bounds best can lose, or less than 0.
        multiplier: a good price for them.
        spare: the most that they gain above what is needed, at this price and before this level.

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
    spare += float((core.items.gain[forced] - multiplier * core.items.cost[forced]).sum())
    items, history = core.items.some(kept), (*core.history, Selected(kept))
    return _core(items, multiplier, spare, core.frame, history), forced


def _core(
    items: Items,
    multiplier: float,
    spare: float,
    frame: Frame,
    history: tuple[Past, ...],
) -> Core:
    leaves = items
    items, mergers = merge(items, multiplier, frame.distance(items, multiplier, spare))
    price = np.array([multiplier])
    if items.groups > 1:
        most = _LARGEST_TABLE // len(items.cost)
        price = _prices(multiplier, leaves, frame.least_price, most)
    dust = frame.dust(price)
    reduced = items.gain - price[:, None] * items.cost
    top = items.top(reduced)
    tail = _suffix_sum(top.T) + dust
    return Core(
        items=items,
        ends=items.ends.tolist(),
        price=price,
        loss=np.repeat(top, items.sizes, axis=1) - reduced,
        tail=tail,
        turns=(tail[:, 1:] - tail[:, :-1]) / (price[1:] - price[:-1]),
        savings=_suffix_sum(np.maximum(items.top(-items.cost), 0)),
        frame=frame,
        history=(*history, *mergers),
    )


def _prices(multiplier: float, items: Items, least: float, most: int) -> FloatArray:
    """At most ``most``: the multiplier, prices around it where choices change, the least one."""
    cost = items.cost
    count = min(_PRICES, (most - 2) // 2)
    rate = (multiplier * cost - items.gain) / np.maximum(np.abs(cost), 1)
    away = []
    for side in (1, -1):  # dearer candidates become worth it at lower prices
        rates = np.sort(rate[(np.sign(cost) == side) & (rate > 0)])
        away.append(np.zeros(0))
        if len(rates) and count > 0:
            lowest = max(rates[len(rates) // 50], rates[-1] * _PRICE_RANGE)
            share = np.arange(count) / max(1, count - 1)
            away[-1] = lowest * (rates[-1] / lowest) ** share
    every = np.concatenate(
        ([least], multiplier - away[0][::-1], [multiplier], multiplier + away[1])
    )
    every = every[every >= least]
    different: FloatArray = every[np.append(True, every[1:] > every[:-1])]
    return different


def _suffix_sum(rows: NDArray[Number]) -> NDArray[Number]:
    """[n, ...] -> [n + 1, ...]: sum of the rows from each one on; the last is 0."""
    total = np.zeros((len(rows) + 1, *rows.shape[1:]), rows.dtype)
    total[:-1] = np.cumsum(rows[::-1], axis=0)[::-1]
    return total
