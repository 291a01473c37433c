"""The rules of thumb of GAC-v1: round every d* to an aligned size, or round down and upgrade.

d* is the size that a compressor would take by itself, a float per group; ``wanted`` says
how it is placed among the candidates. Neither rule is exact, and Round-Nearest need not even keep
the budget. They are baselines: ``core.solve`` gives better plans.
"""

import heapq
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import refuse_extras
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.paper.method import finished, total_cost, total_value
from gacfx.knapsack.paper.wanted import floor_choice, nearest_choice
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.solution import Solution

Repair = Literal["none", "greedy_down"]


@dataclass(frozen=True)
class Rounded:
    """Every d* rounded to its nearest candidate, whatever that costs."""

    choice: tuple[int, ...]
    """[groups] index into the candidates"""
    cost: int
    value: float
    budget_error: int
    """``cost`` minus the budget: above 0 by how much it is exceeded, below 0 what is unspent"""


def solve_greedy(problem: Problem, wanted: Mapping[str, float]) -> Solution:
    """The plan of GAC-v1: from floor(d*), upgrade by the best value per cost until nothing fits.

    An upgrade is one step up in the order of costs; of equal ratios the smaller step comes first,
    then the earlier group. A step that gains nothing is not taken. Nothing is ever downgraded, so
    the plan depends on d*.

    Args:
        problem: groups whose labels are ranks or "dense".
        wanted: group name -> d*; other names are ignored.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: a d* or a label is missing or malformed, the start is over the budget, or the
            problem has further limits or rules.
    """
    begin = time.perf_counter()
    refuse_extras(problem, "greedy")
    if not problem.groups:
        return solve(problem)
    form = normal_form(problem)
    start = floor_choice(problem, wanted)
    left = problem.budget - total_cost(problem, start)
    if left < 0:
        raise PlanError(
            f"rounding every wanted size down already costs {-left:,} more than the budget of "
            f"{problem.budget:,}, and greedy never downgrades; lower the wanted sizes, or take "
            "the exact solver (--solver core)"
        )
    ladders = _ladders(problem, start)
    _upgrade(ladders, left)
    return finished(problem, form, [ladder.index for ladder in ladders], begin)


def round_nearest(problem: Problem, wanted: Mapping[str, float]) -> Rounded:
    """Every d* rounded to the nearest candidate, with the true budget error.

    Args:
        problem: groups whose labels are ranks or "dense"; further limits are not looked at.
        wanted: group name -> d*; other names are ignored.

    Raises:
        PlanError: a d* or a label is missing or malformed.
    """
    choice = tuple(nearest_choice(problem, wanted))
    cost = total_cost(problem, choice)
    value = total_value(problem, choice)
    return Rounded(choice, cost, value, cost - problem.budget)


def solve_rounded(
    problem: Problem, wanted: Mapping[str, float], *, repair: Repair = "none"
) -> Solution:
    """The plan of Round-Nearest, if it keeps the budget or can be made to.

    Args:
        problem: groups whose labels are ranks or "dense".
        wanted: group name -> d*; other names are ignored.
        repair: "greedy_down" goes down one step at a time until the budget is kept, each time
            where that loses the least value per cost; of equal ratios the smaller step, then the
            earlier group.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: a d* or a label is missing or malformed; the plan is over the budget and
            ``repair`` is "none" (``round_nearest`` shows that plan); or the problem has further
            limits or rules.
    """
    begin = time.perf_counter()
    refuse_extras(problem, "rounding")
    if repair not in get_args(Repair):
        raise PlanError(f"repair {repair!r}: known are {', '.join(get_args(Repair))}")
    if not problem.groups:
        return solve(problem)
    form = normal_form(problem)
    rounded = round_nearest(problem, wanted)
    over = rounded.budget_error
    if over <= 0:
        return finished(problem, form, rounded.choice, begin)
    if repair == "none":
        raise PlanError(
            f"rounding every wanted size to the nearest costs {rounded.cost:,}, which is {over:,} "
            f'over the budget of {problem.budget:,}; repair it with "greedy_down", or take the '
            "exact solver (--solver core)"
        )
    ladders = _ladders(problem, rounded.choice)
    _downgrade(ladders, over)
    return finished(problem, form, [ladder.index for ladder in ladders], begin)


class _Ladder:
    """The candidates of one group by rising cost, the best of each cost, and where a plan stands.

    Attributes:
        rung: where the plan stands; changed by the rules.
    """

    def __init__(self, group: Group, start: int) -> None:
        order = np.lexsort((-group.values, group.costs))  # stable: lowest index first
        costs = group.costs[order]
        best = np.append(True, costs[1:] > costs[:-1])
        self._index: list[int] = order[best].tolist()
        self._cost: list[int] = costs[best].tolist()
        self._value: list[float] = group.values[order[best]].tolist()
        self.rung = bisect_left(self._cost, int(group.costs[start]))

    @property
    def index(self) -> int:
        """Index of the candidate where the plan stands, as it was given."""
        return self._index[self.rung]

    def up(self) -> tuple[float, int] | None:
        """(gain, extra cost) of one step up; None at the top."""
        return self._step(self.rung) if self.rung + 1 < len(self._cost) else None

    def down(self) -> tuple[float, int] | None:
        """(loss, saved cost) of one step down; None at the bottom."""
        return self._step(self.rung - 1) if self.rung > 0 else None

    def _step(self, low: int) -> tuple[float, int]:
        return self._value[low + 1] - self._value[low], self._cost[low + 1] - self._cost[low]


def _ladders(problem: Problem, start: Sequence[int]) -> list[_Ladder]:
    return [_Ladder(group, at) for group, at in zip(problem.groups, start, strict=True)]


_Steps = list[tuple[float, int, int]]
"""A heap of (ratio, cost, number of the ladder)"""


def _upgrade(ladders: list[_Ladder], left: int) -> None:
    """Climb by the best gain per cost until no step fits into ``left``."""
    steps: _Steps = []

    def offer(number: int) -> None:
        step = ladders[number].up()
        if step is not None and step[0] > 0:
            heapq.heappush(steps, (-step[0] / step[1], step[1], number))

    for number in range(len(ladders)):
        offer(number)
    while steps:
        _, extra, number = heapq.heappop(steps)
        if extra <= left:  # what does not fit now will not fit later
            left -= extra
            ladders[number].rung += 1
            offer(number)


def _downgrade(ladders: list[_Ladder], over: int) -> None:
    """Descend by the least loss per cost until ``over`` is saved; some plan must fit."""
    steps: _Steps = []

    def offer(number: int) -> None:
        step = ladders[number].down()
        if step is not None:
            heapq.heappush(steps, (step[0] / step[1], step[1], number))

    for number in range(len(ladders)):
        offer(number)
    while over > 0:
        _, saved, number = heapq.heappop(steps)
        over -= saved
        ladders[number].rung -= 1
        offer(number)
