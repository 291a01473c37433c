"""The solver on problems small enough to see through, and its guards on hard ones."""

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import PrecisionWarning, Problem, check
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.one_budget.core import solve


def test_dense_or_low_rank() -> None:
    # Concave up to the last rank, then the jump to dense: only one weight can stay dense.
    pair = ([10, 20, 30, 35], [-1.0, -0.6, -0.4, 0.0])
    solution = solve(Problem.from_groups([pair, pair], 60))
    assert sorted(solution.choice) == [1, 3]
    assert (solution.cost, solution.value, solution.status) == (55, -0.6, "optimal")


def test_everything_fits() -> None:
    solution = solve(Problem.from_groups([([1, 5, 9], [0, 3, 3]), ([2], [-7])], 100))
    assert solution.choice == (1, 0)
    assert (solution.value, solution.gap, solution.multiplier) == (-4.0, 0.0, 0.0)


def test_nothing_to_choose() -> None:
    solution = solve(Problem((), 7))
    assert (solution.choice, solution.cost, solution.status) == ((), 0, "optimal")
    assert check(Problem((), 7), solution).valid


def test_budget_of_exactly_the_cheapest_plan() -> None:
    solution = solve(Problem.from_groups([([4, 2, 3], [9, 1, 5]), ([1, 1], [0, 2])], 3))
    assert solution.choice == (1, 1)
    assert solution.gap == 0


def test_infeasible_says_what_is_needed() -> None:
    with pytest.raises(InfeasibleBudget, match="allow at least 3") as info:
        solve(Problem.from_groups([([4, 2], [9, 1]), ([1], [0])], 2))
    assert (info.value.needed, info.value.budget) == (3, 2)


def test_ties_take_the_cheapest_then_the_lowest_index() -> None:
    pairs = [([7, 3, 3, 5], [2, 2, 2, 2]), ([9, 9, 0], [4, 4, 4])]
    assert solve(Problem.from_groups(pairs, 100)).choice == (1, 2)
    pairs = [([2, 1, 1, 0], [5, 5, 5, 0]), ([1, 1], [3, 3])]
    assert solve(Problem.from_groups(pairs, 2)).choice == (1, 0)
    pairs = [([0, 1], [0, 2]), ([1, 0, 0], [3, 2, 0]), ([0, 1, 3, 1, 1], [0, 2, 3, 2, 0])]
    assert solve(Problem.from_groups(pairs, 3)).choice == (1, 0, 1)


def test_values_may_fall_with_cost() -> None:
    assert solve(Problem.from_groups([([1, 2, 3], [5, 4, 3])] * 3, 9)).choice == (0, 0, 0)


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e190])
def test_the_scale_of_values_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(5)
    pairs = [(rng.integers(0, 99, 6), rng.normal(size=6)) for _ in range(8)]
    plain = solve(Problem.from_groups(pairs, 350))
    scaled = solve(Problem.from_groups([(c, v * scale) for c, v in pairs], 350))
    assert scaled.choice == plain.choice
    assert scaled.status == "optimal"


def test_huge_costs_stay_exact() -> None:
    unit = 2**55 + 1
    pairs = [([0, 3 * unit, 5 * unit], [0, 3, 5])] * 3
    solution = solve(Problem.from_groups(pairs, 8 * unit + 17))
    assert (solution.cost, solution.value) == (8 * unit, 8.0)
    assert solution.usable_budget == 8 * unit


def test_values_of_very_different_size_warn() -> None:
    pairs = [([0, 6], [0, 1e20]), ([0, 6], [0, 0.9e20]), ([0, 1], [0, 1e-3])]
    with pytest.warns(PrecisionWarning, match="1 groups have values too small"):
        solution = solve(Problem.from_groups(pairs, 10))
    assert solution.choice == (1, 0, 1)
    assert solution.rounding_bound > 1e-3


def test_whole_values_leave_no_rounding() -> None:
    rng = np.random.default_rng(2)
    pairs = [(rng.integers(0, 50, 9), rng.integers(-30, 30, 9)) for _ in range(30)]
    solution = solve(Problem.from_groups(pairs, 500))
    assert (solution.status, solution.gap, solution.rounding_bound) == ("optimal", 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "number"), [("gap", -1.0), ("gap", np.nan), ("gap", "1e-3"), ("time_limit", True)]
)
def test_bad_options_are_named(name: str, number: float) -> None:
    with pytest.raises(PlanError, match=name):
        solve(Problem((), 1), **{name: number})


def keep_dense_problem(groups: int = 60, ranks: int = 120, seed: int = 0) -> Problem:
    """Curves of three cost steps with a jump to dense; hundreds of candidates near the bound."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, ranks)
    pairs = []
    for _ in range(groups):
        step = int(rng.choice([5, 8, 18]))
        tail = rng.lognormal() * (1 - (rank / (2 * ranks)) ** rng.uniform(0.1, 0.7))
        pairs.append((np.append(step * rank, step * ranks), np.append(-step * tail, 0.0)))
    total = sum(int(costs[-1]) for costs, _ in pairs)
    return Problem.from_groups(pairs, int(0.7 * total))


def test_gap_stops_early_within_its_promise() -> None:
    problem = keep_dense_problem()
    exact = solve(problem)
    assert exact.status == "optimal"
    near = solve(problem, gap=0.05)
    assert near.gap <= 0.05 + 2 * near.rounding_bound
    assert exact.value - 0.05 <= near.value <= exact.value
    assert near.bound >= exact.value


def test_time_limit_still_gives_a_certified_plan() -> None:
    problem = keep_dense_problem()
    solution = solve(problem, time_limit=0.0)
    assert solution.status == "bounded"
    assert solution.bound >= solve(problem).value
    assert check(problem, solution).valid


def test_stats_are_complete() -> None:
    stats = solve(keep_dense_problem()).stats
    names = {"candidates", "groups", "quantum", "capacity", "core_groups", "max_states", "seconds"}
    assert names <= stats.keys()
    assert stats["candidates"] == 60 * 120
    assert stats["max_states"] > 1


@pytest.mark.parametrize("parity", [1, 2])
def test_subset_sum_without_a_common_divisor_ends_within_its_guards(
    parity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_MOST_STEPS", 4_000_000)
    rng = np.random.default_rng(0)
    costs = parity * rng.integers(1, 10**7, (100, 200))
    costs[0, 0] += 1  # for even costs: an odd budget that can hardly be met
    budget = int((costs.min(1).sum() + costs.max(1).sum()) / 2) | 1
    problem = Problem.from_groups([(row, row.astype(float)) for row in costs], budget)
    solution = solve(problem)
    assert solution.stats["quantum"] == 1
    assert solution.stats["steps"] < 6_000_000
    assert (solution.status == "bounded") == (parity == 2)
    assert solution.gap <= 1e-6 * solution.value
    assert check(problem, solution).valid
