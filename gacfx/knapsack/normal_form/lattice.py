"""The problem in normal form, with the cheapest plan paid in advance.

Two lossless reductions. Every plan pays the cheapest candidate of each group, so only the extra
cost above it counts. All extra costs are multiples of their greatest common divisor, the quantum,
so whatever the budget leaves below a multiple of it can never be spent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form.stacks import Stack, stacks
from gacfx.knapsack.normal_form.tables import Table, extra_cost, make_table
from gacfx.knapsack.problem import Problem

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Flat:
    """All candidates of all groups.

    A *position* counts candidates group by group, in each the cheapest first; group i owns the
    positions ``start[i]:start[i + 1]``. A *column* counts inside a group. The solver works on the
    tables; the flat arrays over all positions are made when somebody asks for them.
    """

    tables: tuple[Table, ...]
    start: IntArray
    """[groups + 1]"""
    room: int
    """Budget left above the cheapest plan, a multiple of the quantum"""
    quantum: int
    usable_budget: int
    """``room`` plus the cost of the cheapest plan"""
    offered: int
    """Candidates of the problem, also those left out"""

    @cached_property
    def candidates(self) -> int:
        """Of those that fit; rows that repeat their last one count it as often."""
        return sum(table.value.size for table in self.tables)

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def sizes(self) -> IntArray:
        return self.start[1:] - self.start[:-1]

    @cached_property
    def cost(self) -> IntArray:
        """[positions] cost above the cheapest candidate of the group, ascending in a group."""
        return self._in_order(np.int64, lambda table: table.cost)

    @cached_property
    def weight(self) -> FloatArray:
        """[positions] ``cost`` as float64."""
        return self.cost.astype(np.float64)

    @cached_property
    def value(self) -> FloatArray:
        """[positions] of equal costs the largest value comes first, then the lowest index."""
        return self._in_order(np.float64, lambda table: table.value)

    @cached_property
    def origin(self) -> IntArray | None:
        """[positions] index of the candidate as it was given; None: position - start."""
        if all(table.origin is None for table in self.tables):
            return None
        return self._in_order(np.int64, _origins)

    def _in_order(
        self, dtype: type[Number], part: Callable[[Table], NDArray[Number]]
    ) -> NDArray[Number]:
        flat = np.empty(int(self.start[-1]), dtype)
        for table in self.tables:
            column = np.arange(table.value.shape[1])
            position = self.start[table.member, None] + column
            rows = np.broadcast_to(part(table), position.shape)
            if table.size is None:
                flat[position] = rows
            else:
                real = column < table.size[:, None]
                flat[position[real]] = rows[real]
        return flat

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [positions]: every candidate gets the number of its group."""
        return np.repeat(per_group, self.sizes)

    def owner(self, position: IntArray) -> IntArray:
        """The group that owns each position."""
        return np.searchsorted(self.start, position, side="right") - 1

    def index(self, position: IntArray) -> IntArray:
        """[groups] one position per group -> [groups] index of the candidate as it was given."""
        index = position - self.start[:-1]
        for table in self.tables:
            if table.origin is not None:
                row = table.row if len(table.origin) > 1 else 0
                index[table.member] = table.origin[row, index[table.member]]
        return index

    def at(self, column: IntArray) -> tuple[IntArray, FloatArray]:
        """[groups] one column per group -> [groups] costs, [groups] values."""
        if len(self.tables) == 1:  # then its rows are the groups in order
            only = self.tables[0]
            return only.costs_at(only.row, column), only.value[only.row, column]
        cost, value = np.empty(self.groups, np.int64), np.empty(self.groups)
        for table in self.tables:
            mine = column[table.member]
            cost[table.member] = table.costs_at(table.row, mine)
            value[table.member] = table.value[table.row, mine]
        return cost, value


def flatten(problem: Problem) -> Flat:
    """The normal form of ``problem``.

    Raises:
        InfeasibleBudget: even the cheapest candidate of every group costs too much.
    """
    parts = stacks(problem.groups)
    needed = sum(_cheapest(stack) for stack in parts)
    if needed > problem.budget:
        raise _infeasible(problem, needed)
    extra = [extra_cost(stack) for stack in parts]
    quantum = _quantum(parts, extra)
    room = (problem.budget - needed) // quantum * quantum
    tables = [make_table(stack, cost, room) for stack, cost in zip(parts, extra, strict=True)]
    size = np.empty(len(problem.groups), np.int64)
    for table in tables:
        size[table.member] = table.value.shape[1] if table.size is None else table.size
    start = np.zeros(len(size) + 1, np.int64)
    np.cumsum(size, out=start[1:])
    offered = sum(stack.candidates for stack in parts)
    return Flat(tuple(tables), start, room, quantum, needed + room, offered)


def _cheapest(stack: Stack) -> int:
    """What the cheapest candidates of all groups cost together."""
    least = int(stack.least.sum())
    return least * len(stack.member) if len(stack.costs) == 1 else least


def _quantum(parts: list[Stack], extra: list[IntArray]) -> int:
    quantum = 0
    for stack, cost in zip(parts, extra, strict=True):
        if stack.size is not None:
            cost = cost[np.arange(cost.shape[1]) < stack.size[:, None]]
        quantum = int(np.gcd.reduce(cost, axis=None, initial=quantum))
    return quantum or 1


def _origins(table: Table) -> IntArray:
    return np.arange(table.value.shape[1])[None] if table.origin is None else table.origin


def _infeasible(problem: Problem, needed: int) -> InfeasibleBudget:
    return InfeasibleBudget(
        f"the cheapest plan costs {needed}, which is {needed - problem.budget} over the budget of "
        f"{problem.budget}; allow at least {needed}, or offer cheaper candidates",
        needed=needed,
        budget=problem.budget,
    )
