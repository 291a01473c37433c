"""A table as a PuLP program: minimise, one candidate per group, every resource, every link.

    minimise  sum weight x + sum price unused + sum link_price spare
    group     sum x = 1
    resource  sum cost x + unused = room
    link      sum x of then - sum x of given - spare = 0

With values as weights and no prices that is the textbook program. With the losses and prices of a
Lagrangian dual it is the same program again, less a constant; but its objective is then the
distance from the Lagrangian bound, a small number that no tolerance of a solver can hide.
"""

from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.ilp.table import Table

SPAN = 1000.0
"""What the widest group spans in a fair objective; CBC and HiGHS have tolerances of 1e-6."""
_DIGITS = 6  # of the largest coefficient; a row with larger costs is scaled down
_WRITTEN_DIGITS = 13  # of a number in a file that PuLP writes
_ROW_DUST = 2e-9  # twice the tolerance of a row

Terms = list[tuple[Any, float]]
"""(variable, coefficient)"""


@dataclass(frozen=True)
class Goal:
    """What a program minimises."""

    weight: FloatArray
    """[positions]"""
    price: FloatArray
    """[resources] for each quantum that is left"""
    link_price: FloatArray
    """[links] for a conclusion that holds without need"""


def fair_goal(table: Table) -> tuple[Goal, float]:
    """(values turned into weights, value of one unit): the widest group spans 1000.

    The best of every group weighs 0. A solver works with absolute tolerances, so an objective of
    another size makes it call plans optimal that are not.
    """
    below = table.spread(np.maximum.reduceat(table.value, table.start[:-1])) - table.value
    widest = float(below.max()) or 1.0
    goal = Goal(below / widest * SPAN, np.zeros(len(table.room)), np.zeros(len(table.links)))
    return goal, widest / SPAN


def build(
    table: Table, position: IntArray, goal: Goal, *, whole: bool = True, penalty: float = 0.0
) -> Any:
    """The program over the candidates in ``position``, as a ``pulp.LpProblem``.

    Variables are ``x`` and the position; rows are ``g``, ``r`` and ``l`` and the number of the
    group, resource or link.

    Args:
        table: the problem.
        position: sorted; every group owns one at least.
        goal: what to minimise.
        whole: variables are 0 or 1, not between.
        penalty: allow every resource and link to be overdrawn for this much a unit; 0: not at all.
    """
    pulp = import_pulp()
    program = pulp.LpProblem("plan", pulp.LpMinimize)
    # PuLP 4 makes variables through the program and sums by name, older releases by the classes.
    make = getattr(program, "add_variable", pulp.LpVariable)
    total = getattr(pulp.LpAffineExpression, "from_list", pulp.LpAffineExpression)
    kind = {"cat": "Binary"} if whole else {"lowBound": 0}
    take = {place: make(f"x{place}", **kind) for place in position.tolist()}
    members = list(take.values())
    objective: Terms = list(zip(members, goal.weight[position].tolist(), strict=True))

    def add(name: str, terms: Terms, right: float, sign: int = 0, price: float = 0.0) -> None:
        """A row; with a sign something may be missing (1) or too much (-1), at a price a unit."""
        if sign:
            terms.append((make(f"rest_{name}", lowBound=0), sign))
            objective.append((terms[-1][0], price))
        if sign and penalty:
            terms.append((make(f"over_{name}", lowBound=0), -sign))
            objective.append((terms[-1][0], penalty))
        nonlocal program
        program += total(terms) == right, name

    for number, (begin, end) in enumerate(pairwise(np.searchsorted(position, table.start))):
        add(f"g{number}", [(x, 1.0) for x in members[begin:end]], 1.0)
    for number, unit in enumerate(row_units(table).tolist()):
        costs = (table.cost[number, position] / unit).tolist()
        spare = 0.5 if unit > 1 else 0.0  # whole coefficients need none
        room = (int(table.room[number]) + spare) / unit
        price = float(goal.price[number] * unit)
        add(f"r{number}", list(zip(members, costs, strict=True)), room, 1, price)
    for number, (given, then) in enumerate(table.links):
        terms: Terms = [(take[place], -1.0) for place in given.tolist() if place in take]
        terms += [(take[place], 1.0) for place in then.tolist() if place in take]
        add(f"l{number}", terms, 0.0, -1, float(goal.link_price[number]))
    program += total(objective)
    return program


def row_units(table: Table) -> FloatArray:
    """[resources] quanta in one unit of its row: a power of ten that keeps coefficients sane.

    Of ten, because the program is written in decimals.
    """
    digits = [len(str(int(row.max(initial=0)))) for row in table.cost]
    return np.array([10.0 ** max(0, count - _DIGITS) for count in digits])


def is_exact(table: Table) -> bool:
    """Whether the solver sees every plan on its own side of every limit.

    Costs are whole, so half a quantum more than the room lets no further plan in; what rounding and
    tolerances do to a row must stay below that.
    """
    most = max(int(table.cost.max(initial=0)), int(table.room.max()))
    dust = _ROW_DUST + table.groups * 10.0**_DIGITS * 2.0**-52
    return most < 10**_WRITTEN_DIGITS and dust < 0.5 / float(row_units(table).max())


def import_pulp() -> ModuleType:
    """The module ``pulp``.

    Raises:
        PlanError: it is not installed.
    """
    try:
        return import_module("pulp")
    except ImportError:
        raise PlanError("integer programs need PuLP: pip install pulp") from None
