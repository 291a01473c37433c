"""Problems that look at one of two budgets only, and what they say about both together."""

import math
import warnings
from dataclasses import replace
from typing import NoReturn

import numpy as np

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack.amounts import PrecisionWarning, seconds_left
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.solution import Solution

_LARGEST_EXACT_FLOAT = 2**53


def other_costs(problem: Problem) -> list[IntArray]:
    """[groups] [candidates] what the candidates cost under the limit."""
    costs = problem.limits[0].costs
    return [
        costs[group.name] if group.name in costs else np.zeros(len(group.costs), np.int64)
        for group in problem.groups
    ]


def swapped(problem: Problem) -> Problem:
    """The problem that knows only the limit, as its budget."""
    pairs = zip(problem.groups, other_costs(problem), strict=True)
    groups = tuple(replace(group, costs=costs) for group, costs in pairs)
    return Problem(groups, problem.limits[0].most)


def spent(problem: Problem, choice: tuple[int, ...]) -> tuple[int, int]:
    """What a plan costs, under the budget and under the limit."""
    others = zip(other_costs(problem), choice, strict=True)
    picks = zip(problem.groups, choice, strict=True)
    cost = sum(int(group.costs[index]) for group, index in picks)
    return cost, sum(int(costs[index]) for costs, index in others)


def solve_alone(problem: Problem, keep: int, gap: float, deadline: float) -> Solution | None:
    """The best plan under the budget (``keep`` 0) or the limit (1) alone; None if it breaks both.

    As a solution of ``problem``, but for its cost and its usable budget.
    """
    alone = swapped(problem) if keep else replace(problem, limits=())
    solution = core.solve(alone, gap=gap, time_limit=seconds_left(deadline))
    cost, other = spent(problem, solution.choice)
    if cost > problem.budget or other > problem.limits[0].most:
        return None
    prices = (0.0, solution.multiplier) if keep else (solution.multiplier, 0.0)
    return replace(solution, multiplier=prices[0], limit_multipliers=(prices[1],))


def leanest(problem: Problem, deadline: float) -> tuple[tuple[int, ...], int, int]:
    """The plan within the budget that costs least under the limit, as far as it is known.

    Comes with that cost, and with one that no plan can be below.
    """
    others = other_costs(problem)
    pairs = zip(problem.groups, others, strict=True)
    groups = tuple(Group(group.name, group.costs, -costs.astype(float)) for group, costs in pairs)
    lean = Problem(groups, problem.budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        solution = core.solve(lean, time_limit=seconds_left(deadline))
    found = spent(problem, solution.choice)[1]
    most = sum(int(costs.max()) for costs in others)
    dust = 0.0 if most < _LARGEST_EXACT_FLOAT else math.ldexp(most, -50)
    return solution.choice, found, math.ceil(-solution.bound - dust)


def refuse_together(problem: Problem, needed: int, floor: int) -> NoReturn:
    """Raise, because no plan keeps budget and limit at once.

    Raises:
        InfeasibleBudget: with the smallest limit that would do beside this budget.
    """
    limit = problem.limits[0]
    about = "" if needed == floor else f" (or a little less, but not below {floor})"
    raise InfeasibleBudget(
        f"the budget of {problem.budget} and the limit {limit.name!r} of {limit.most} can each be "
        f"kept, but not together: within the budget {limit.name!r} needs {needed}{about}, which "
        f"is {needed - limit.most} more; raise that limit or the budget, or offer other candidates",
        needed=needed,
        budget=limit.most,
    )
