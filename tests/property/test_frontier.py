"""All budgets at once against the solver, budget by budget, on small random problems."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack import Problem, check, solve
from gacfx.knapsack.frontier.plans import frontier, points
from gacfx.knapsack.frontier.table import every_budget
from tests.trials.problems import random_problem

fixed = settings(derandomize=True, max_examples=40, deadline=None, database=None)

groups = st.lists(
    st.lists(
        st.tuples(st.integers(0, 30), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
    ).map(lambda items: ([cost for cost, _ in items], [value for _, value in items])),
    min_size=1,
    max_size=5,
)
concave_groups = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(1, 12),
        st.floats(-100, 100),
        st.lists(st.floats(0, 1e4, width=32) | st.sampled_from([0.1, 1.0]), max_size=6),
    ),
    min_size=1,
    max_size=4,
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


@fixed
@given(concave_groups, st.integers(0, 160))
def test_the_table_holds_the_optimum_of_every_budget(
    shapes: list[tuple[int, int, float, list[float]]], budget: int
) -> None:
    pairs = []
    for first, step, base, gains in shapes:
        values = base + np.append(0.0, np.cumsum(sorted(gains, reverse=True)))
        pairs.append((first + step * np.arange(len(values)), values))
    problem = Problem.from_groups(pairs, budget)
    if budget < sum(first for first, *_ in shapes):
        with pytest.raises(InfeasibleBudget):
            every_budget(problem)
        return
    table = every_budget(problem)
    assert (np.diff(table.value) >= 0).all()
    assert table.rounding_bound <= 1e-12 * (1 + np.abs(table.value).max())
    for amount in range(table.least, budget + 1):
        exact = solve(replace(problem, budget=amount))
        off = abs(table.value_at(amount) - exact.value)
        assert off <= table.rounding_bound + exact.rounding_bound
