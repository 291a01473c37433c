"""One trial: a random problem, everybody's answer to it, and what must hold of the answers."""

import math
import warnings
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import PrecisionWarning, Problem, Solution, check, solve, solve_ilp
from gacfx.knapsack.paper.dp import solve_dp
from tests.trials.oracles import (
    MOST_CELLS,
    MOST_PLANS,
    best_of_all,
    cells,
    exact_value,
    keeps_all,
    plans,
    textbook_dp,
)
from tests.trials.problems import KINDS
from tests.trials.tampering import is_plan, tampered

EVERY = {"twice": 10, "turned": 10, "paper dp": 5, "integer program": 25}
"""Every how many problems something is done that takes longer than the solver"""

HUGE_COST = 2**40
"""From here on an integer program may be less than proven"""


def trials(kind: str, seed: int, count: int) -> Counter[str]:
    """How often each thing was tried in ``count`` trials of one kind; raises at the first fault."""
    done: Counter[str] = Counter()
    rng = np.random.default_rng([list(KINDS).index(kind), seed])
    for number in range(count):
        problem = KINDS[kind](rng, number)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PrecisionWarning)
                done += trial(rng, problem, number)
        except Exception as error:
            error.add_note(f"{kind}, seed {seed}, number {number}: {problem!r}")
            raise
    return done


def trial(rng: np.random.Generator, problem: Problem, number: int) -> Counter[str]:
    """Everything that is tried with one problem, counted."""
    done = Counter(problems=1)
    brute = plans(problem) <= MOST_PLANS
    best = best_of_all(problem) if brute else None
    done["brute force"] += brute
    solution = solve_or_none(problem)
    if solution is None:
        assert best is None
        return done + Counter(infeasible=1)
    if brute:
        assert best is not None, "a plan for a problem that has none"
        assert_best(problem, solution, best)
    if not problem.limits and not problem.rules and cells(problem) <= MOST_CELLS:
        assert_like_the_table(problem, solution)
        done["textbook dp"] += 1
        if number % EVERY["paper dp"] == 0:
            assert_as_good(solution, solve_dp(problem))
            done["paper dp"] += 1
    if number % EVERY["integer program"] == 0:
        done[assert_like_the_program(problem, solution)] += 1
    done += assert_steady(rng, problem, solution, number)
    return done + assert_tampering_is_seen(rng, problem, solution, best)


def solve_or_none(problem: Problem) -> Solution | None:
    """The solution; None if it is refused with the right words and numbers."""
    try:
        return solve(problem)
    except PlanError as error:
        refused = error
    if not isinstance(refused, InfeasibleBudget):
        assert "none in common" in str(refused)
    elif len(problem.limits) < 2 and not problem.rules:
        assert refused.needed > refused.budget
        if not problem.limits:
            assert refused.needed == sum(int(group.costs.min()) for group in problem.groups)
            assert solve(replace(problem, budget=refused.needed)).cost == refused.needed
    return None


def assert_best(problem: Problem, solution: Solution, best: Fraction) -> None:
    """Legal, certified, and worth no less than the best plan but for what rounding may hide."""
    value = exact_value(problem, solution.choice)
    assert keeps_all(problem, solution.choice)
    if solution.status == "bounded":
        assert len(problem.limits) > 1 and is_huge(problem), "only an integer program gives up"
    assert 0 <= best - value <= Fraction(allowed_gap(solution))
    certificate = check(problem, solution)
    certificate.require()
    assert certificate.value == value
    assert certificate.bound is not None and certificate.bound >= best


def assert_like_the_table(problem: Problem, solution: Solution) -> None:
    dust = 2.0**-46 * sum(float(np.abs(group.values).max()) for group in problem.groups)
    assert abs(solution.value - textbook_dp(problem)) <= solution.rounding_bound + dust
    assert solution.cost <= solution.usable_budget <= problem.budget
    assert keeps_all(problem, solution.choice)


def assert_as_good(solution: Solution, other: Solution) -> None:
    most = allowed_gap(solution) + allowed_gap(other)
    assert abs(solution.value - other.value) <= most + math.ulp(solution.value)


def allowed_gap(solution: Solution) -> float:
    """How far below the best a plan may be, after what is said of it."""
    return solution.rounding_bound if solution.status == "optimal" else solution.gap


def is_huge(problem: Problem) -> bool:
    """Programs in float64 cannot count such costs exactly."""
    costs = [group.costs for group in problem.groups]
    costs += [row for limit in problem.limits for row in limit.costs.values()]
    return max(int(row.max()) for row in costs) >= HUGE_COST


def assert_like_the_program(problem: Problem, solution: Solution) -> str:
    """How it went: the solver of integer programs counts in float64 and may give up, by name."""
    try:
        other = solve_ilp(problem, shrink=False)
    except PlanError as error:
        if is_huge(problem) and "try the other solver" in str(error):
            return "integer program gave up"
        raise
    assert_as_good(solution, other)
    assert other.status == "optimal" or is_huge(problem)
    return f"integer program {other.status}"


def assert_steady(
    rng: np.random.Generator, problem: Problem, solution: Solution, number: int
) -> Counter[str]:
    """The same answer twice, and the same value in another order of groups."""
    done: Counter[str] = Counter()
    if number % EVERY["twice"] == 1:
        assert replace(solve(problem), stats={}) == replace(solution, stats={})
        done["twice"] += 1
    if number % EVERY["turned"] == 3:
        order = rng.permutation(len(problem.groups)).tolist()
        turned = replace(problem, groups=tuple(problem.groups[place] for place in order))
        assert_as_good(solution, solve(turned))
        done["turned"] += 1
    return done


def assert_tampering_is_seen(
    rng: np.random.Generator, problem: Problem, solution: Solution, best: Fraction | None
) -> Counter[str]:
    """A solution with one claim changed is refused if and only if that made it wrong."""
    name, changed, right = tampered(rng, problem, solution)
    certificate = check(problem, changed)
    assert certificate.valid == right, f"{name}: {certificate.faults}"
    assert certificate.feasible == is_plan(problem, changed), f"{name}: {certificate.faults}"
    if right and best is not None:
        assert certificate.bound is not None and certificate.bound >= best
    return Counter({"tampered": 1, "tampered and refused": not right})
