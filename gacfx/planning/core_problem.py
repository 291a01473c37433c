"""The core: what is left to decide, on an integer grid, with bounds for every unfinished plan.

Gains are counted from the relaxed plan and put on a grid of 2**46 steps for the core alone, so that
all later sums and comparisons are exact in float64, and the same on every machine. The grid is as
fine as the core is small: candidates that were fixed before do not stretch it.

An unfinished plan that has gained ``g`` and leaves ``r`` (negative: overspent) ends no better than

    g + p * r + sum over open groups of max_j (gain_j - p * cost_j)        for every price p >= 0.

One price gives a straight line in r. A score of prices around the multiplier gives nearly the
linear relaxation of what is open, at the cost of a product and a sum each.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.planning.arrays import FloatArray, IntArray, run_ends
from gacfx.planning.fixing import Near, undominated
from gacfx.planning.lattice import Flat
from gacfx.planning.relaxation import Relaxed

Number = TypeVar("Number", np.int64, np.float64)

Order = Literal["near", "wide"]
"""Groups with the smallest loss per unit of cost first, which soon makes good plans; or groups with
the widest steps first, after which the relaxation of the rest is nearly exact."""

_GRID_BITS = 46
_PRICES = 10  # on each side of the multiplier
_PRICE_RANGE = 1e-6  # of the largest rate, and not below the 2 % quantile
_LARGEST_TABLE = 2**22  # entries, candidates x prices


@dataclass(frozen=True)
class Level:
    """One group that is still open."""

    group: int
    position: IntArray
    cost: IntArray
    """[candidates] above the relaxed plan; may be negative"""
    gain: FloatArray
    """[candidates] grid steps above the relaxed plan; whole numbers"""
    loss: FloatArray
    """[candidates, prices] grid steps below the best candidate at each price"""
    step_loss: float
    """The smallest loss at the multiplier of a candidate other than the relaxed plan's"""


@dataclass(frozen=True)
class Core:
    """Open groups in the order of search, and the bounds between them."""

    levels: tuple[Level, ...]
    price: FloatArray
    """[prices] grid steps per unit of cost; the multiplier comes first"""
    tail: FloatArray
    """[levels + 1, prices] the sum in the bound over the levels from here on, rounded up"""
    savings: IntArray
    """[levels + 1] the most that the levels from here on can spend less"""
    unit: float
    """All gains are multiples of this number of grid steps"""
    exponent: int
    """A grid step is 2**-exponent"""
    rounding: float
    """Most value that the grid can hide, 0 if every gain lies on it"""
    blurred: int
    """Groups whose gains differ, but not on the grid"""

    @property
    def candidates(self) -> int:
        return sum(len(level.gain) for level in self.levels)


def build(flat: Flat, relaxed: Relaxed, near: Near, order: Order) -> Core | None:
    """The core of the candidates in ``near``; None if some group has none left."""
    if not np.bincount(near.owner, minlength=flat.groups).all():
        return None
    best = undominated(flat, near.position, near.owner)
    position, owner = near.position[best], near.owner[best]
    is_open = (np.bincount(owner)[owner] > 1) | (position != relaxed.chosen[owner])
    if not is_open.any():
        zero = np.zeros((1, 1))
        return Core((), zero[0], zero, np.zeros(1, np.int64), 1.0, 0, 0.0, 0)
    items = _on_grid(flat, relaxed, position[is_open], owner[is_open])
    price = _prices(math.ldexp(relaxed.multiplier, items.exponent), items)
    return _core(items, price, relaxed, order)


@dataclass(frozen=True)
class _Items:
    """The candidates of open groups, counted from the relaxed plan."""

    position: IntArray
    owner: IntArray
    ends: IntArray
    """[groups + 1] where the groups begin, and the end"""
    cost: IntArray
    gain: FloatArray
    """Whole grid steps"""
    exponent: int
    exact: bool
    """Nothing was rounded, neither by the grid nor by float64"""
    blurred: int

    def top(self, numbers: NDArray[Number]) -> NDArray[Number]:
        """[candidates, ...] -> [groups, ...] the largest of each group."""
        largest: NDArray[Number] = np.maximum.reduceat(numbers, self.ends[:-1], axis=0)
        return largest


def _on_grid(flat: Flat, relaxed: Relaxed, position: IntArray, owner: IntArray) -> _Items:
    base = relaxed.chosen[owner]
    value, start = flat.value[position], flat.value[base]
    gain = value - start
    # Knuth's error of a difference: 0 where float64 holds it exactly.
    back = gain - value
    exact = not np.any((value - (gain - back)) - (start + back))
    ends = run_ends(owner)
    largest = np.maximum.reduceat(np.abs(gain), ends[:-1])
    exponent = _GRID_BITS - math.frexp(float(largest.sum()) or 1.0)[1]
    fine = np.ldexp(gain, exponent)
    whole = np.rint(fine)
    seen = np.maximum.reduceat(np.abs(whole), ends[:-1]) > 0
    return _Items(
        position=position,
        owner=owner,
        ends=ends,
        cost=flat.cost[position] - flat.cost[base],
        gain=whole,
        exponent=exponent,
        exact=exact and not np.any(whole != fine),
        blurred=int(np.count_nonzero((largest > 0) & ~seen)),
    )


def _prices(multiplier: float, items: _Items) -> FloatArray:
    """The multiplier, prices spread around it where choices change, and 0."""
    cost = items.cost
    count = min(_PRICES, (_LARGEST_TABLE // len(cost) - 2) // 2)
    prices = [np.array([multiplier])]
    rate = (multiplier * cost - items.gain) / np.maximum(np.abs(cost), 1)
    for side in (-1, 1):
        rates = np.sort(rate[(np.sign(cost) == -side) & (rate > 0)])
        if len(rates) and count > 0:
            lowest = max(rates[len(rates) // 50], rates[-1] * _PRICE_RANGE)
            share = np.arange(count) / max(1, count - 1)
            prices.append(multiplier + side * lowest * (rates[-1] / lowest) ** share)
    every = np.append(np.concatenate(prices), 0.0)
    return every[every >= 0]


def _core(items: _Items, price: FloatArray, relaxed: Relaxed, order: Order) -> Core:
    reduced = items.gain[:, None] - items.cost[:, None] * price
    top, width = items.top(reduced), items.top(np.abs(items.cost))
    loss = np.repeat(top, np.diff(items.ends), axis=0) - reduced
    step = np.where(items.position == relaxed.chosen[items.owner], np.inf, loss[:, 0])
    if order == "wide":
        turn = np.argsort(-width, kind="stable")
    else:
        rate = -items.top(-step / np.maximum(np.abs(items.cost), 1))
        turn = np.argsort(rate, kind="stable")
    # Float errors may only loosen a bound: every tail gets more than they can add up to.
    reach = 2.0**_GRID_BITS + price * (abs(relaxed.left) + float(width.sum()))
    dust = math.ldexp(len(turn) + 8.0, -52) * reach
    return Core(
        levels=_levels(items, loss, -items.top(-step), turn),
        price=price,
        tail=_suffix_sum(top[turn]) + dust,
        savings=_suffix_sum(np.maximum(items.top(-items.cost), 0)[turn]),
        unit=float(np.gcd.reduce(items.gain.astype(np.int64))) or 1.0,
        exponent=items.exponent,
        # Half a step per candidate on either side of a comparison, and the dust of a difference.
        rounding=0.0 if items.exact else math.ldexp(len(turn) + 1.0, -items.exponent),
        blurred=items.blurred,
    )


def _levels(
    items: _Items, loss: FloatArray, step_loss: FloatArray, turn: IntArray
) -> tuple[Level, ...]:
    levels = []
    begins, ends = items.ends[turn].tolist(), items.ends[turn + 1].tolist()
    for begin, end, least in zip(begins, ends, step_loss[turn].tolist(), strict=True):
        part = slice(begin, end)
        group = int(items.owner[begin])
        levels.append(
            Level(
                group, items.position[part], items.cost[part], items.gain[part], loss[part], least
            )
        )
    return tuple(levels)


def _suffix_sum(rows: NDArray[Number]) -> NDArray[Number]:
    """[n, ...] -> [n + 1, ...]: sum of the rows from each one on; the last is 0."""
    total = np.zeros((len(rows) + 1, *rows.shape[1:]), rows.dtype)
    total[:-1] = np.cumsum(rows[::-1], axis=0)[::-1]
    return total
