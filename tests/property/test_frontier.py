"""All budgets at once against the solver, budget by budget, on small random problems."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.knapsack import Problem, check, solve
from gacfx.knapsack.frontier.plans import frontier, points
from tests.trials.problems import random_problem

fixed = settings(derandomize=True, max_examples=40, deadline=None, database=None)

groups = st.lists(
    st.lists(
        st.tuples(st.integers(0, 30), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
    ).map(lambda items: ([cost for cost, _ in items], [value for _, value in items])),
    min_size=1,
    max_size=5,
)


@pytest.mark.filterwarnings("ignore::gacfx.knapsack.PrecisionWarning")
@fixed
@given(groups)
def test_value_optimum_and_bound_are_in_order_for_every_budget(
    pairs: list[tuple[list[int], list[float]]],
) -> None:
    problem = Problem.from_groups(pairs, 0)
    best = frontier(problem)
    last = -math.inf
    for budget in range(int(best.cost[0]), int(best.cost[-1]) + 2):
        at = replace(problem, budget=budget)
        plan, exact = best.plan_at(budget), solve(at)
        assert plan.value <= exact.value + exact.rounding_bound
        assert exact.value <= plan.bound
        assert plan.value >= last
        last = plan.value
        certificate = check(at, plan)
        certificate.require()
        assert certificate.bound is not None
        # The claim is a float; what rounding can hide is part of it.
        assert certificate.bound <= Fraction(plan.bound) + Fraction(plan.rounding_bound)
        if budget in best.cost:
            assert plan.status == "optimal"


@pytest.mark.parametrize("seed", range(3))
def test_nasty_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(60):
        problem = random_problem(rng, number)
        best = frontier(problem)
        for point in points(best, 5):
            at = replace(problem, budget=point.budget)
            plan, exact = best.plan_at(point.budget), solve(at)
            check(at, plan).require()
            assert plan.value <= exact.value + exact.rounding_bound
            assert exact.value <= plan.bound
            assert point.bound >= exact.value - best.rounding_bound
