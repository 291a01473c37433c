"""Bounds for unfinished plans of two resources: planes, one for each pair of prices.

An unfinished plan that has gained ``g`` and leaves ``r`` of the rooms (negative: overspent) ends no
better than

    g + p . r + sum over open groups of max_j (gain_j - p . cost_j)        for every p >= 0,

a plane over r for every p. The search begins with planes around the dual prices, and adds more
on the way: the linear relaxation of one unfinished plan is a small dual problem, and the prices
that solve it bound its neighbours well, too.
"""

import math
from collections.abc import Sequence

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.grid import TOP
from gacfx.knapsack.two_budgets.core_problem import TwoCore, suffix_sums
from gacfx.knapsack.two_budgets.lagrangian import Lagrangian, Price, highest

_MOST_PLANES = 96
_LARGEST_TABLE = 2**22  # entries, planes x candidates
_SAMPLE = 512
_CHUNK = 2**13  # states whose bounds are computed at once
_DIRECTIONS = 8
_RADII = 3
_RANGE = 1e-6  # of the largest rate, and not below the 2 % quantile
_TOLERANCE = 1e-9
_FAR = 2.0**20  # along a ray, in units where all gains sum up to 1


class CuttingPlanes:
    """The planes over one core, its prices in grid steps per unit of cost.

    Args:
        core: the open groups.
        left: what the chosen plan leaves of both rooms.
        prices: to begin with, the dual's first; those that find no room are left out.
    """

    def __init__(self, core: TwoCore, left: Sequence[int], prices: Sequence[Price]) -> None:
        most = max(1, min(_MOST_PLANES, _LARGEST_TABLE // max(1, len(core.gain))))
        self.core = core
        self.count = 0
        self.loss = np.zeros((most, len(core.gain)))
        """[planes, candidates] grid steps below the best candidate at each price"""
        self._price = np.zeros((2, most))
        self._tail = np.zeros((most, core.levels + 1))
        self._cost = core.cost.astype(np.float64)
        reach = np.maximum(core.savings[:, 0], core.spending[:, 0])
        self._reach = np.maximum(reach, np.abs(left))
        self._tails = _Tails(core)
        for price in prices[:most]:
            self.add(price)

    @property
    def full(self) -> bool:
        return self.count == len(self.loss)

    def prices(self, begin: int) -> list[Price]:
        """Those of the planes from ``begin`` on, in units of value."""
        scaled = np.ldexp(self._price[:, begin : self.count], -self.core.grid.exponent)
        return [(first, second) for first, second in scaled.T.tolist()]

    def add(self, price: Price) -> int:
        """Keep one more plane, for which there must be space; its index."""
        core, index = self.core, self.count
        reduced = core.gain - self._cost[0] * price[0] - self._cost[1] * price[1]
        top = core.top(reduced)
        # Float errors may only loosen a bound: it gets more than they can add up to.
        size = TOP + price[0] * self._reach[0] + price[1] * self._reach[1]
        self._tail[index] = suffix_sums(top) + math.ldexp(core.levels + 8.0, -51) * size
        self._price[:, index] = price
        self.loss[index] = core.spread(top) - reduced
        self.count += 1
        return index

    def bound(self, depth: int, left: IntArray, gain: FloatArray) -> tuple[IntArray, FloatArray]:
        """[states] the plane that bounds each state before level ``depth`` best, and its bound."""
        useful = np.arange(self.count)
        if len(gain) > 4 * _SAMPLE:
            sample = slice(None, None, len(gain) // _SAMPLE)
            useful = np.unique(self._tightest(useful, depth, left[:, sample], gain[sample])[0])
        plane, bound = np.empty(len(gain), np.int64), np.empty(len(gain))
        for begin in range(0, len(gain), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            plane[part], bound[part] = self._tightest(useful, depth, left[:, part], gain[part])
        return plane, bound

    def _tightest(
        self, planes: IntArray, depth: int, left: IntArray, gain: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        first, second = self._price[:, planes, None]
        height = first * left[0]
        height += second * left[1]
        height += self._tail[planes, depth, None]
        return planes[height.argmin(axis=0)], height.min(axis=0) + gain

    def bound_on(self, plane: int, depth: int, left: IntArray, gain: FloatArray) -> FloatArray:
        """[states] the bounds that one plane gives."""
        first, second = self._price[:, plane].tolist()
        height: FloatArray = first * left[0] + second * left[1] + self._tail[plane, depth]
        return height + gain

    def add_tightest(self, depth: int, left: tuple[int, int], plane: int) -> int:
        """Add the plane that is tightest for a state, looking first near the best so far."""
        first, second = self._price[:, plane].tolist()
        return self.add(self._tails.price(depth, left, (first, second)))


class _Tails:
    """The linear relaxations of what is open from a level on."""

    def __init__(self, core: TwoCore) -> None:
        self.core = core
        self.scale = np.maximum(core.savings[:, 0] + core.spending[:, 0], 1).astype(np.float64)
        top = core.top(core.gain)
        worth = float((top + core.top(-core.gain)).sum()) or 1.0
        self.short = (core.spread(top) - core.gain) / worth
        self.cost = (core.cost + core.spread(core.top(-core.cost))) / self.scale[:, None]
        self.unit = worth / self.scale

    def price(self, depth: int, left: tuple[int, int], guess: Price) -> Price:
        """The prices that bound a state before level ``depth`` best."""
        begin = self.core.ends[depth]
        room = (self.core.savings[:, depth] + left) / self.scale
        tail = Lagrangian(
            start=self.core.ends[depth:] - begin,
            short=self.short[begin:],
            first=self.cost[0, begin:],
            second=self.cost[1, begin:],
            room=(float(room[0]), float(room[1])),
        )
        unit = float(self.unit[0]), float(self.unit[1])
        peak = highest(tail, _TOLERANCE, (guess[0] / unit[0], guess[1] / unit[1]))
        ray = peak.ray or (0.0, 0.0)
        return (
            (peak.price[0] + _FAR * ray[0]) * unit[0],
            (peak.price[1] + _FAR * ray[1]) * unit[1],
        )


def prices_around(core: TwoCore, price: Price) -> list[Price]:
    """``price``, each of the two without the other, and a score around it where choices change."""
    found = [price, (price[0], 0.0), (0.0, price[1])]
    size = np.maximum(np.abs(core.cost).mean(axis=1), 1e-9) if core.levels else np.ones(2)
    for turn in range(_DIRECTIONS):
        angle = 2 * math.pi * turn / _DIRECTIONS
        step = math.cos(angle) / size[0], math.sin(angle) / size[1]
        move = -(step[0] * core.cost[0] + step[1] * core.cost[1])
        comes = (move > 0) & (core.loss > 0)
        rates = np.sort(core.loss[comes] / move[comes])
        if len(rates):
            low = max(rates[len(rates) // 50], rates[-1] * _RANGE)
            far = low * (rates[-1] / low) ** (np.arange(_RADII) / (_RADII - 1))
            found += [
                (max(0.0, price[0] + r * step[0]), max(0.0, price[1] + r * step[1]))
                for r in far.tolist()
            ]
    return found
