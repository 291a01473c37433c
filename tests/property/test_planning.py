"""The solver against brute force, the textbook dynamic program and CBC; the checker.

Seeded random problems where thousands are wanted (``tests/trials`` makes and judges them, here and
in ``make test-long``), hypothesis where a small counterexample helps.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack import Group, Implies, Problem, Solution, check, kept_budget, solve
from gacfx.knapsack.one_budget import core_search
from tests.trials.oracles import best_of_all, textbook_dp
from tests.trials.problems import KINDS, curves, random_problem
from tests.trials.tampering import CHANGES
from tests.trials.trial import assert_best, trials

pytestmark = pytest.mark.filterwarnings("ignore::gacfx.knapsack.PrecisionWarning")
fixed = settings(derandomize=True, max_examples=60, deadline=None, database=None)


def assert_optimal(problem: Problem, solution: Solution, best: float) -> None:
    dust = 1e-14 * sum(float(np.abs(group.values).max()) for group in problem.groups)
    assert solution.status == "optimal"
    assert abs(solution.value - best) <= solution.rounding_bound + dust
    assert solution.cost <= problem.budget


def solve_or_none(problem: Problem) -> Solution | None:
    try:
        return solve(problem)
    except InfeasibleBudget:
        return None


COUNTS = {
    "one budget": 1600,
    "equal groups": 700,
    "two budgets": 600,
    "uniform": 400,
    "rules": 300,
    "several limits": 40,
    "curves": 20,
}
"""Small problems in every run of the tests; ``make test-long`` tries thirty times as many."""


@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_to_solve_agree_and_the_checker_sees_through_claims(kind: str) -> None:
    done = trials(kind, seed=2**40, count=COUNTS[kind])
    assert done["problems"] == COUNTS[kind]
    assert done["tampered and refused"] > 0
    assert done["infeasible"] > 0 or kind == "curves"


def test_three_thousand_problems_are_tried() -> None:
    assert sum(COUNTS.values()) >= 3000


def test_narrow_beams_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_search, "_BEAMS", (1, 2, 65536))
    for seed in range(12):
        problem = curves(np.random.default_rng(seed), seed)
        assert_optimal(problem, solve(problem), textbook_dp(problem))
    rng = np.random.default_rng(30)
    for number in range(300):
        small = random_problem(rng, number)
        solution = solve_or_none(small)
        if solution is not None:
            assert_optimal(small, solution, textbook_dp(small))


def test_the_rounding_of_joined_groups_covers_the_plan_and_the_best_one() -> None:
    """Sums of a large and a small value lose digits, in the plan and in the one it was held to."""
    rng = np.random.default_rng(40)
    for _ in range(200):
        groups = (
            Group("large", np.array([0]), np.array([2.0**43])),
            Group("small", np.arange(3), 2.0**-8 * rng.random(3)),
        )
        problem = Problem(groups, 2, (), (Implies("small", (0,), "large", (0,)),))
        best = best_of_all(problem)
        assert best is not None
        assert_best(problem, solve(problem), best)


problems = st.builds(
    lambda pairs, budget: Problem.from_groups(pairs, budget),
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 60), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=5
        ).map(lambda items: ([cost for cost, _ in items], [value for _, value in items])),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 250),
)


@fixed
@given(problems)
def test_a_plan_is_legal_certified_and_best(problem: Problem) -> None:
    solution = solve_or_none(problem)
    best = best_of_all(problem)
    if solution is None:
        assert best is None
        return
    assert best is not None
    assert_best(problem, solution, best)
    for group, index in zip(problem.groups, solution.choice, strict=True):
        as_good = np.flatnonzero(group.values >= group.values[index])
        cheapest = as_good[group.costs[as_good] == group.costs[as_good].min()]
        assert index == cheapest[np.argmax(group.values[cheapest])]


@fixed
@given(problems, st.randoms(use_true_random=False))
def test_order_of_groups_does_not_change_the_value(problem: Problem, random: object) -> None:
    solution = solve_or_none(problem)
    if solution is None:
        return
    turned = list(problem.groups)
    random.shuffle(turned)  # type: ignore[attr-defined]
    again = solve(Problem(tuple(turned), problem.budget))
    assert abs(again.value - solution.value) <= solution.rounding_bound + again.rounding_bound


@fixed
@given(problems, st.sampled_from(sorted(CHANGES)), st.integers(0, 2**32))
def test_the_checker_refuses_what_was_changed(problem: Problem, change: str, seed: int) -> None:
    solution = solve_or_none(problem)
    if solution is None:
        return
    changed, right = CHANGES[change](np.random.default_rng(seed), problem, solution)
    assert check(problem, changed).valid == right


@fixed
@given(st.integers(0, 2**60), st.decimals(0, "0.999999", places=6))
def test_kept_budget_is_the_exact_floor(total: int, ratio: object) -> None:
    kept = kept_budget(total, str(ratio))
    exact = (1 - Fraction(str(ratio))) * total
    assert kept <= exact < kept + 1
    assert kept_budget(total, float(str(ratio))) == kept
