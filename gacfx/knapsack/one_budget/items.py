"""What is left to decide near the relaxed plan: the candidates of open groups."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray, run_ends
from gacfx.knapsack.grid import Grid, on_grid
from gacfx.knapsack.normal_form.dominance import records
from gacfx.knapsack.one_budget.fixing import Near
from gacfx.knapsack.order import ends_of

Number = TypeVar("Number", np.int64, np.float64)


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
    if not len(kept):
        return None
    owner = near.owner[kept]
    base = near.base[owner]
    ends = run_ends(owner)
    gain, grid = on_grid(near.value[kept], near.value[base], ends)
    return Opened(kept, Items(ends, near.cost[kept] - near.cost[base], gain), grid)
