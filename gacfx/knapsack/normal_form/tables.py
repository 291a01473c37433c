"""Tables: candidates sorted by cost, a row for each group.

Sorted candidates stay where they are, so the values of a large problem are never copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form.stacks import Stack

Number = TypeVar("Number", np.int64, np.float64)

_PIECE = 2**14  # candidates; a few such arrays fit into the cache of a core


@dataclass(frozen=True)
class Table:
    """Groups of equal length, a row each; columns are candidates, cheapest first.

    Candidates that cost more than the room beside the cheapest of all others are left out: no plan
    holds them. Where that makes a row shorter than others, its last candidate is repeated.
    """

    member: IntArray
    """[rows] the group of each row, ascending"""
    cost: IntArray
    """[1 or rows, columns] above the cheapest candidate of the row, ascending in a row"""
    weight: FloatArray
    """[1 or rows, columns] ``cost`` as float64"""
    value: FloatArray
    """[rows, columns] of equal costs the largest value comes first, then the lowest index"""
    size: IntArray | None
    """[rows] candidates before the repetition; None: all columns"""
    origin: IntArray | None
    """[1 or rows, columns] index of the candidate in its group as it was given; None: the column"""

    @cached_property
    def row(self) -> IntArray:
        """[rows] their numbers."""
        return np.arange(len(self.member))

    def pieces(self) -> Iterator[slice]:
        """Slices of rows, small enough to work on without leaving the cache."""
        rows, columns = self.value.shape
        step = max(1, _PIECE // columns)
        return (slice(begin, begin + step) for begin in range(0, rows, step))

    def reduced(self, price: float, rows: slice) -> FloatArray:
        """[rows of the slice, columns] value minus price times cost."""
        if price == 0:
            return self.value[rows]
        weight = self.weight if len(self.weight) == 1 else self.weight[rows]
        difference: FloatArray = self.value[rows] - price * weight
        return difference

    def costs_at(self, row: IntArray, column: IntArray) -> IntArray:
        """The costs of some candidates."""
        return self.cost[0, column] if len(self.cost) == 1 else self.cost[row, column]


def extra_cost(stack: Stack) -> IntArray:
    """[1 or rows, columns] cost above the cheapest of the row; one row if all rise alike."""
    extra = stack.costs - stack.least
    return extra[:1] if (extra == extra[0]).all() else extra


def make_table(stack: Stack, cost: IntArray, room: int) -> Table:
    """The table of ``stack``, whose extra costs are ``cost``."""
    value, origin = stack.values, None
    if not stack.is_sorted:
        origin = _order(cost, value)
        cost, value = _taken(cost, origin[: len(cost)]), _taken(value, origin)
    size = None
    if cost[:, -1].max() > room:
        fits = np.count_nonzero(cost <= room, axis=1)
        columns = int(fits.max())
        cost, value = cost[:, :columns], value[:, :columns]
        if fits.min() < columns:
            size = fits
            column = np.minimum(np.arange(columns), size[:, None] - 1)
            cost, value = _taken(cost, column), _taken(value, column)
            origin = column if origin is None else _taken(origin, column)
        elif origin is not None:
            origin = origin[:, :columns]
    return Table(stack.member, cost, cost.astype(np.float64), value, size, origin)


def _order(cost: IntArray, value: FloatArray) -> IntArray:
    """[1 or rows, columns] cheapest first; of equal costs the largest value, then the first."""
    if len(cost) > 1:
        return np.lexsort((-value, cost), axis=-1)
    order = np.argsort(cost, axis=1, kind="stable")
    ordered = cost[0, order[0]]
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return order
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order = np.repeat(order, len(value), axis=0)
    mine = value[:, order[0, tied]]
    turn = np.lexsort((-mine, np.broadcast_to(ordered[tied], mine.shape)), axis=-1)
    order[:, tied] = order[0, tied][turn]
    return order


def _taken(rows: NDArray[Number], column: IntArray) -> NDArray[Number]:
    """[rows, ...] some columns of each row; ``column``: [1 or rows, ...]."""
    if len(column) == 1:
        return rows[:, column[0]]
    taken: NDArray[Number] = np.take_along_axis(rows, column, axis=1)
    return taken
