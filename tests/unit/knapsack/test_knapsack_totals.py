"""The lattice of costs and gains, and what it proves."""

import itertools
import math

import numpy as np
import pytest

from gacfx.knapsack import Problem, check, solve
from gacfx.knapsack.one_budget.totals import Totals, totals


def test_gains_that_are_costs_plus_tens() -> None:
    cost, gain = np.array([3, 5, -8]), np.array([13, 25, -8])
    found = totals(cost, gain)
    assert found == Totals(width=1, rise=1, step=10)
    # A cost of at most 7 gives 7, 17, 27, ... at most.
    assert [found.above(gain, 7) for gain in (7, 8, 17, -4)] == [7, 17, 17, -3]
    assert [found.below(gain, 7) for gain in (7, 8, 16, 6)] == [7, 7, 7, -3]


def test_a_budget_between_two_multiples_of_the_width() -> None:
    found = totals(np.array([6, 12, 0]), np.array([4, 13, 5]))
    assert found == Totals(width=6, rise=4, step=5)
    assert found.below(10, 17) == found.below(10, 12) == 8


@pytest.mark.parametrize(
    ("cost", "gain"),
    [
        ([1, 2, 3], [5, 10, 15]),  # gains are a multiple of the cost: nothing beyond the relaxation
        ([1, 2, 5], [3, 7, 1]),  # any gain is possible
        ([0, 0], [3, 6]),
        ([4], [9]),
    ],
)
def test_nothing_to_learn(cost: list[int], gain: list[int]) -> None:
    assert totals(np.array(cost), np.array(gain)) is None


def test_a_coarser_lattice_rises_slower() -> None:
    fine = Totals(width=1, rise=11, step=20)
    assert fine.rising_at_most(12.0) == fine
    assert fine.rising_at_most(1.5) == Totals(width=1, rise=1, step=10)
    assert Totals(width=2, rise=5, step=7).rising_at_most(2.0) is None


@pytest.mark.parametrize("seed", range(40))
def test_the_lattice_is_the_one_that_the_candidates_span(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, rise, step = (int(number) for number in rng.integers(2, 12, 3))
    x, y = rng.integers(-5, 6, 60), rng.integers(-5, 6, 60)
    cost, gain = x * width, x * rise + y * step
    found = totals(cost, gain)
    pairs = itertools.combinations(zip(cost.tolist(), gain.tolist(), strict=True), 2)
    area = math.gcd(*(a * d - b * c for (a, b), (c, d) in pairs))
    assert found is not None
    assert found.width * found.step == area
    assert 0 <= found.rise < found.step
    assert not (cost % found.width).any()
    assert not ((gain - cost // found.width * found.rise) % found.step).any()


def strong(rng: np.random.Generator, groups: int, candidates: int, most: int) -> Problem:
    """Strongly correlated: every step gains what it costs and 10 more (after Pisinger 1995)."""
    steps = np.sort(rng.integers(1, most + 1, (groups, candidates)), axis=1)
    costs = np.cumsum(steps, axis=1)
    values = np.cumsum(steps + 10.0, axis=1)
    budget = int((costs[:, 0].sum() + costs[:, -1].sum()) / 2)
    return Problem.from_groups(list(zip(costs, values, strict=True)), budget)


def textbook(problem: Problem) -> float:
    """Best value by the recurrence over every budget."""
    table = np.full(problem.budget + 1, -np.inf)
    table[0] = 0
    for group in problem.groups:
        new = np.full(len(table), -np.inf)
        for cost, value in zip(group.costs.tolist(), group.values.tolist(), strict=True):
            if cost < len(table):
                np.maximum(new[cost:], table[: len(table) - cost] + value, out=new[cost:])
        table = new
    return float(table.max())


def test_strongly_correlated_problems_are_solved_exactly() -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        groups, candidates, most = (int(rng.integers(2, high)) for high in (25, 7, 60))
        problem = strong(rng, groups, candidates, most)
        solution = solve(problem)
        assert (solution.status, solution.value) == ("optimal", textbook(problem))
        check(problem, solution).require()


def test_a_large_strongly_correlated_problem_is_proven() -> None:
    problem = strong(np.random.default_rng(0), 1000, 10, 1000)
    solution = solve(problem)
    assert (solution.status, solution.gap) == ("optimal", 0.0)
    # The relaxation alone leaves a gap.
    assert check(problem, solution).certified_gap > 0
