"""What is left to decide near the relaxed plan: the candidates of open groups."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray, run_ends
from gacfx.knapsack.grid import Grid, on_grid
from gacfx.knapsack.one_budget.reduced_costs import Unfixed
from gacfx.knapsack.order import ends_of

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Items:
    """The candidates of open groups, counted from the relaxed plan."""

    ends: IntArray
    """[groups + 1] where the groups begin, and the end"""
    cost: IntArray
    """May be negative"""
    gain: FloatArray
    """Whole grid steps"""
    source: IntArray
    """Which candidates of ``Unfixed`` they are"""

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

    def some(self, kept: IntArray) -> "Items":
        """Some of the candidates, ascending; groups without any are gone."""
        group = np.searchsorted(self.ends, kept, side="right")
        return Items(run_ends(group), self.cost[kept], self.gain[kept], self.source[kept])

    def turned(self, turn: IntArray) -> "Items":
        """The groups in another order."""
        sizes = self.sizes[turn]
        ends = ends_of(sizes)
        place = np.repeat(self.ends[turn] - ends[:-1], sizes) + np.arange(len(self.cost))
        return Items(ends, self.cost[place], self.gain[place], self.source[place])


def opened(near: Unfixed, kept: IntArray) -> tuple[Items, Grid] | None:
    """What the candidates ``kept`` leave to decide; None: the relaxed plan is the only one."""
    owner = near.owner[kept]
    kept = np.compress((np.bincount(owner)[owner] > 1) | (kept != near.base[owner]), kept)
    if not len(kept):
        return None
    owner = near.owner[kept]
    base = near.base[owner]
    ends = run_ends(owner)
    gain, grid = on_grid(near.value[kept], near.value[base], ends)
    return Items(ends, near.cost[kept] - near.cost[base], gain, kept), grid
