"""What is left to decide, on an integer grid.

Gains are counted from the relaxed plan and put on a grid of 2**46 steps for the core alone, so that
all later sums and comparisons are exact in float64, and the same on every machine. The grid is as
fine as the core is small: candidates that were fixed before do not stretch it.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.planning.arrays import FloatArray, IntArray, run_ends
from gacfx.planning.normal_form.dominance import records
from gacfx.planning.one_budget.fixing import Near
from gacfx.planning.order import ends_of

Number = TypeVar("Number", np.int64, np.float64)

_GRID_BITS = 46
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
        """Whole units, rounded down, in grid steps; at most 2**60, which no core can gain."""
        low = min(value, math.ldexp(1.0, 60 - self.exponent))
        return math.floor(math.ldexp(low, self.exponent) / self.unit) * self.unit


@dataclass(frozen=True)
class Items:
    """The candidates of open groups, counted from the relaxed plan."""

    ends: IntArray
    """[groups + 1] where the groups begin, and the end"""
    cost: IntArray
    """Rising in a group; may be negative"""
    gain: FloatArray
    """Whole grid steps"""

    @property
    def groups(self) -> int:
        return len(self.ends) - 1

    @property
    def sizes(self) -> IntArray:
        return self.ends[1:] - self.ends[:-1]

    def top(self, numbers: NDArray[Number]) -> NDArray[Number]:
        """[..., candidates] -> [..., groups] the largest of each group."""
        largest: NDArray[Number] = np.maximum.reduceat(numbers, self.ends[:-1], axis=-1)
        return largest

    def loss(self, price: float) -> FloatArray:
        """[candidates] how much worse than the best of its group each is at ``price``."""
        reduced = self.gain - price * self.cost
        return np.repeat(self.top(reduced), self.sizes) - reduced

    def some(self, kept: IntArray) -> "Items":
        """Some of the candidates, ascending; groups without any are gone."""
        group = np.searchsorted(self.ends, kept, side="right")
        return Items(run_ends(group), self.cost[kept], self.gain[kept])

    def turned(self, turn: IntArray) -> tuple["Items", IntArray]:
        """The groups in another order, and where the candidates stood before."""
        sizes = self.sizes[turn]
        ends = ends_of(sizes)
        place = np.repeat(self.ends[turn] - ends[:-1], sizes) + np.arange(len(self.cost))
        return Items(ends, self.cost[place], self.gain[place]), place


@dataclass(frozen=True)
class Selected:
    """Where some of the candidates, or all in another order, came from."""

    place: IntArray

    def undo(self, candidates: list[int]) -> list[int]:
        """The candidates before."""
        before: list[int] = self.place[candidates].tolist()
        return before


@dataclass(frozen=True)
class Opened:
    """What some candidates of ``Near`` leave to decide."""

    kept: IntArray
    """[candidates] as indices of ``Near``"""
    items: Items
    grid: Grid


def opened(near: Near, kept: IntArray) -> Opened | None:
    """What the candidates ``kept`` leave to decide; None: the relaxed plan is the only one.

    Only those stay that are worth more than cheaper ones, in groups where that leaves a choice.
    """
    kept = kept[records(near.value[kept], near.owner[kept])]
    owner = near.owner[kept]
    kept = np.compress((np.bincount(owner)[owner] > 1) | (kept != near.base[owner]), kept)
    return Opened(kept, *_on_grid(near, kept)) if len(kept) else None


def _on_grid(near: Near, kept: IntArray) -> tuple[Items, Grid]:
    """The candidates ``kept``, of which there are some, and the grid of their gains."""
    owner = near.owner[kept]
    base = near.base[owner]
    value, start = near.value[kept], near.value[base]
    gain = value - start
    # Knuth's error of a difference: 0 where float64 holds it exactly.
    back = gain - value
    exact = not np.any((value - (gain - back)) - (start + back))
    ends = run_ends(owner)
    largest = np.maximum.reduceat(np.abs(gain), ends[:-1])
    exponent = _GRID_BITS - math.frexp(float(largest.sum()) or 1.0)[1]
    fine = np.ldexp(gain, exponent)
    whole = np.rint(fine)
    exact = exact and not np.any(whole != fine)
    grid = Grid(
        exponent=exponent,
        unit=float(np.gcd.reduce(whole.astype(np.int64))) or 1.0,
        # Half a step per candidate on either side of a comparison, and the dust of a difference.
        rounding=0.0 if exact else math.ldexp(len(largest) + 1.0, -exponent),
        blurred=int(np.count_nonzero((largest > 0) & (np.ldexp(largest, exponent) <= 0.5))),
    )
    return Items(ends, near.cost[kept] - near.cost[base], whole), grid
