"""Solutions with one claim changed at random, and whether what they claim is still true."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from gacfx.knapsack import Problem, Solution
from tests.trials.oracles import exact_value, keeps_all

Changed = tuple[Solution, bool]
"""The changed solution, and whether the checker has no reason to refuse it"""
NO_NUMBERS = (-1.0, math.nan, math.inf, -math.inf)


def _choice(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """Another candidate of one group, or one that is not there."""
    where = int(rng.integers(len(problem.groups)))
    new = int(rng.integers(-1, len(problem.groups[where].costs) + 1))
    choice = (*solution.choice[:where], new, *solution.choice[where + 1 :])
    if not 0 <= new < len(problem.groups[where].costs):
        return replace(solution, choice=choice), False
    same = _cost(problem, choice) == solution.cost
    # A value too small to change the correctly rounded sum cannot be told apart by the claim.
    same = same and float(exact_value(problem, choice)) == solution.value
    return replace(solution, choice=choice), same and keeps_all(problem, choice)


def _another(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """Another candidate of one group, everything told right, and modestly: is it still a plan?"""
    where = int(rng.integers(len(problem.groups)))
    new = int(rng.integers(len(problem.groups[where].costs)))
    choice = (*solution.choice[:where], new, *solution.choice[where + 1 :])
    value = float(exact_value(problem, choice))
    far = 1.0 + abs(solution.value) + abs(value)
    other = replace(solution, choice=choice, cost=_cost(problem, choice), value=value)
    modest = replace(other, bound=value + far, gap=far, status="bounded")
    return modest, keeps_all(problem, choice)


def _worse(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """A legal plan that loses in one group, its cost and value told right, called the best."""
    where = int(rng.integers(len(problem.groups)))
    group, old = problem.groups[where], solution.choice[where]
    new = int(rng.integers(len(group.costs)))
    choice = (*solution.choice[:where], new, *solution.choice[where + 1 :])
    lost = Fraction(float(group.values[old])) - Fraction(float(group.values[new]))
    value = float(exact_value(problem, choice))
    shown = lost > 4 * Fraction(solution.rounding_bound) + Fraction(abs(value)) / 2**40
    if not (shown and keeps_all(problem, choice)) or problem.rules:
        return solution, True
    cost, distance = _cost(problem, choice), solution.rounding_bound
    worse = replace(solution, choice=choice, cost=cost, value=value, bound=value + distance)
    return replace(worse, gap=distance), False


def _cost_claim(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    step = int(rng.choice([-1, 1, 2**40]))
    return replace(solution, cost=solution.cost + step), False


def _value_claim(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    ulp = math.nextafter(solution.value, float(rng.choice([-math.inf, math.inf])))
    value = float(rng.choice([ulp, math.nan, solution.value + abs(solution.value) + 1.0]))
    return replace(solution, value=value), False


def _multiplier(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """A negative one proves nothing; any other one proves something true."""
    number = float(rng.choice([*NO_NUMBERS, 0.0, 1e-9, 0.5, 1e9]))
    right = math.isfinite(number) and number >= 0
    if solution.limit_multipliers and rng.random() < 0.5:
        others = (number, *solution.limit_multipliers[1:])
        return replace(solution, limit_multipliers=others), right
    return replace(solution, multiplier=number), right


def _bound(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """Below the value, or so far above it that the gap contradicts it."""
    far = 1.0 + abs(solution.value) + 2 * solution.gap
    bound = float(rng.choice([*NO_NUMBERS[1:], solution.value - far, solution.value + far]))
    return replace(solution, bound=bound), False


def _gap(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    far = 1.0 + abs(solution.value) + 2 * solution.gap
    return replace(solution, gap=float(rng.choice([*NO_NUMBERS, far]))), False


def _status(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """No status at all, a humble one, or optimal in spite of a gap."""
    status: Any = str(rng.choice(["perfect", "bounded", "optimal"]))
    if status != "optimal":
        return replace(solution, status=status), status == "bounded"
    far = 1.0 + abs(solution.value) + 2 * solution.rounding_bound
    return replace(solution, bound=solution.value + far, gap=far, status="optimal"), False


def _usable(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    step = int(rng.choice([-1, 1, 10**9]))
    return replace(solution, usable_budget=solution.usable_budget + step), False


def _rounding(rng: np.random.Generator, problem: Problem, solution: Solution) -> Changed:
    """Without a number for what rounding can hide, optimal means nothing."""
    return replace(solution, rounding_bound=float(rng.choice(NO_NUMBERS))), False


def _cost(problem: Problem, choice: tuple[int, ...]) -> int:
    pairs = zip(problem.groups, choice, strict=True)
    return sum(int(group.costs[index]) for group, index in pairs)


def is_plan(problem: Problem, solution: Solution) -> bool:
    """One candidate of each group, within all budgets and rules."""
    pairs = zip(problem.groups, solution.choice, strict=True)
    there = all(0 <= index < len(group.costs) for group, index in pairs)
    return there and keeps_all(problem, solution.choice)


CHANGES: dict[str, Callable[[np.random.Generator, Problem, Solution], Changed]] = {
    "choice": _choice,
    "another plan": _another,
    "worse plan": _worse,
    "cost": _cost_claim,
    "value": _value_claim,
    "multiplier": _multiplier,
    "bound": _bound,
    "gap": _gap,
    "status": _status,
    "usable budget": _usable,
    "rounding bound": _rounding,
}


def tampered(
    rng: np.random.Generator, problem: Problem, solution: Solution
) -> tuple[str, Solution, bool]:
    """(what was changed, the solution with it changed, whether it is still right)."""
    name = str(rng.choice(list(CHANGES)))
    return name, *CHANGES[name](rng, problem, solution)
