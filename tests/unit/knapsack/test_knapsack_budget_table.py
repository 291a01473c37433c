"""The table of every budget: its ends, what it refuses, what it promises about rounding."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import Group, Problem, solve
from gacfx.knapsack.frontier.plans import frontier
from gacfx.knapsack.frontier.table import every_budget


def curves(seed: int, groups: int = 12, budget: int = 10**9) -> Problem:
    """Concave curves of three steps."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(groups):
        step, count = int(rng.choice([5, 8, 18])), int(rng.integers(1, 30))
        gains = np.sort(rng.lognormal(0, 2, count))[::-1]
        pairs.append((40 + 10 * step * np.arange(count), np.cumsum(gains) - rng.uniform(0, 90)))
    return Problem.from_groups(pairs, budget)


def test_two_small_curves() -> None:
    pairs = [([10, 20, 30], [0.0, 5.0, 6.0]), ([7, 22], [1.0, 8.0])]
    table = every_budget(Problem.from_groups(pairs, 50))
    assert (table.least, table.quantum) == (17, 5)
    assert table.budgets.tolist() == [17, 22, 27, 32, 37, 42, 47]
    assert table.value.tolist() == [1, 1, 6, 8, 8, 13, 13]
    assert [table.value_at(budget) for budget in (17, 26, 27, 41, 42, 50)] == [1, 1, 6, 8, 13, 13]


def test_every_budget_equals_the_solver() -> None:
    for seed in range(3):
        problem = curves(seed)
        table = every_budget(problem)
        for budget in np.random.default_rng(seed).choice(table.budgets, 60):
            best = solve(replace(problem, budget=int(budget)))
            assert best.status == "optimal"
            assert math.isclose(table.value_at(int(budget)), best.value, rel_tol=1e-12)


def test_the_table_meets_the_frontier() -> None:
    problem = curves(7)
    table, best = every_budget(problem), frontier(problem)
    at_plans = table.value[(best.cost - table.least) // table.quantum]
    assert np.abs(at_plans - best.value).max() <= table.rounding_bound + best.rounding_bound


def test_the_table_ends_with_the_budget_or_with_the_most_valuable_plan() -> None:
    whole = every_budget(curves(1))
    most = solve(curves(1))
    assert whole.budgets[-1] == most.cost
    assert whole.value_at(10**9) == whole.value[-1] == pytest.approx(most.value, rel=1e-14)
    middle = int(whole.budgets[len(whole.budgets) // 2])
    half = every_budget(curves(1, budget=middle + 9))
    assert half.budgets[-1] == middle
    assert half.value[-1] == pytest.approx(whole.value_at(middle), rel=1e-14)
    with pytest.raises(PlanError, match=f"the table ends at {middle + 9}"):
        half.value_at(middle + 10)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([0, 8, 24], [0, 3, 4]), "'b': candidate 2, of cost 24, is a step of 16 after one of 8"),
        (([24, 0, 8], [4, 0, 3]), "'b': candidate 0, of cost 24, is a step of 16 after one of 8"),
        (
            ([0, 8, 16], [0, 1, 3]),
            "'b': candidate 2, of cost 16, gains 2 after .* gained 1; .*conc",
        ),
        (([0, 8, 16, 24], [-9, -8, -7.5, 0]), "candidate 3, of cost 24, gains 7.5 after .* 0.5"),
    ],
)
def test_other_curves_are_refused_by_name(
    pair: tuple[list[int], list[float]], message: str
) -> None:
    groups = (
        Group("a", np.array([0, 8, 16]), np.array([0.0, 2.0, 3.0])),
        Group("b", np.array(pair[0]), np.array(pair[1], float)),
    )
    with pytest.raises(PlanError, match=message) as error:
        every_budget(Problem(groups, 99))
    assert "frontier(problem) takes any curve" in str(error.value)


def test_a_jump_beyond_the_budget_does_not_matter() -> None:
    pairs = [([0, 8, 16, 96], [-9, -8, -7.5, 0])]
    assert every_budget(Problem.from_groups(pairs, 50)).value.tolist() == [-9, -8, -7.5]


def test_falling_tails_are_ignored() -> None:
    pairs = [([0, 8, 16, 24, 32], [0, 3, 4, 3, 1])]
    assert every_budget(Problem.from_groups(pairs, 99)).value.tolist() == [0, 3, 4]


def test_infeasible_says_what_is_needed() -> None:
    problem = curves(2)
    least = every_budget(problem).least
    with pytest.raises(InfeasibleBudget, match=f"allow at least {least}"):
        every_budget(replace(problem, budget=least - 1))
    with pytest.raises(InfeasibleBudget, match="which is 1 over the budget"):
        every_budget(problem).value_at(least - 1)
    with pytest.raises(PlanError, match="bool"):
        every_budget(problem).value_at(True)


def test_too_many_budgets_are_refused() -> None:
    pairs = [([0, 2**40 + 1], [0, 1]), ([0, 2**40], [0, 1])]
    with pytest.raises(PlanError, match=r"budgets in steps of 1: .* coarser unit, or: frontier"):
        every_budget(Problem.from_groups(pairs, 2**50))


def test_nothing_to_choose() -> None:
    table = every_budget(Problem((), 5))
    assert (table.budgets.tolist(), table.value.tolist(), table.value_at(3)) == ([0], [0.0], 0.0)


@pytest.mark.parametrize(
    "pairs",
    [
        [([3], [2.0]), ([4], [-1.0])],
        [([3, 9], [2.0, 2.0]), ([4, 4], [-1.0, -5.0])],
    ],
)
def test_nothing_to_gain(pairs: list[tuple[list[int], list[float]]]) -> None:
    table = every_budget(Problem.from_groups(pairs, 2**61))
    assert (table.budgets.tolist(), table.value.tolist()) == ([7], [1.0])


@pytest.mark.parametrize("gains", ["equal", "straight", "zero"])
def test_degenerate_curves(gains: str) -> None:
    ranks = np.arange(1, 60)
    pairs = []
    for step in (13, 14, 17):
        curve = {"equal": 0.1 * ranks, "straight": 0.1 * step * ranks, "zero": 0.0 * ranks}[gains]
        pairs += [(step * ranks, curve)] * 4
    problem = Problem.from_groups(pairs, 8_000)
    table = every_budget(problem)
    assert table.rounding_bound <= 1e-12 * (1 + np.abs(table.value).max())
    for budget in np.random.default_rng(0).choice(table.budgets, 3).tolist():
        best = solve(replace(problem, budget=budget))
        assert table.value_at(budget) <= best.bound + table.rounding_bound
        assert table.value_at(budget) >= best.value - table.rounding_bound


def test_straight_curves_pass_in_spite_of_rounding() -> None:
    costs = 7 * np.arange(1, 400)
    table = every_budget(Problem.from_groups([(costs, 0.1 * costs), (costs, costs / 3)], 10**9))
    exact = 0.1 * 7 + np.arange(399) * 7 / 3 + 7 / 3
    assert np.abs(table.value[:399] - exact).max() <= table.rounding_bound < 1e-9


def test_the_rounding_bound_covers_what_sorting_adds() -> None:
    rng = np.random.default_rng(0)
    ranks = np.arange(1, 20_001)
    values = ranks * (1 / 3)
    for _ in range(2):
        values = np.nextafter(values, values + rng.choice([-1, 1], len(ranks)))
    table = every_budget(Problem.from_groups([(ranks, values)], 10**9))
    added = float((table.value - values).max())
    assert 1e-14 * values[-1] < added <= table.rounding_bound <= 1e-11 * values[-1]


def test_a_group_near_the_grid_is_no_reason_to_refuse() -> None:
    ranks = np.arange(1, 60)
    problem = Problem.from_groups([([0, 1], [0, 1e6]), (ranks, 1.23e-11 * ranks)], 10**9)
    table = every_budget(problem)
    assert table.value[-1] == pytest.approx(1e6)


@pytest.mark.parametrize("scale", [1e-300, 1e190])
def test_the_scale_of_values_does_not_matter(scale: float) -> None:
    plain = curves(4)
    groups = tuple(Group(g.name, g.costs, g.values * scale) for g in plain.groups)
    scaled = every_budget(replace(plain, groups=groups)).value / scale
    assert scaled == pytest.approx(every_budget(plain).value, rel=1e-12)


def test_huge_costs() -> None:
    unit = 2**51 + 1
    costs = unit * np.arange(100)
    problem = Problem.from_groups([(costs, np.sqrt(np.arange(100)))] * 9, 2**61)
    table = every_budget(problem)
    assert table.budgets[-1] == min(9 * 99, 2**61 // unit) * unit
    assert table.value_at(9 * unit - 1) == 8.0
    assert table.value_at(9 * unit) == 9.0


def test_runs_are_alike_and_results_read_only() -> None:
    first, again = every_budget(curves(5)), every_budget(curves(5))
    assert first.value.tobytes() == again.value.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        first.value[0] = 0
