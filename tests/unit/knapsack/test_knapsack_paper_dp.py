"""The textbook dynamic program: equal to the solver and to brute force, exact, and guarded."""

import itertools
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import Problem, check, solve
from gacfx.knapsack.arrays import FloatArray
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.paper import dp as paper_dp
from gacfx.knapsack.paper.dp import solve_dp
from tests.unit.knapsack.paper_printed import printed_dp


def random_problem(rng: np.random.Generator, kind: int) -> Problem:
    """Up to four groups of up to five candidates: unsorted, with ties, on a lattice or off it."""
    kinds: list[Callable[[int], ArrayLike]] = [
        lambda count: rng.integers(-4, 5, count).astype(np.float64),
        lambda count: rng.normal(size=count),
        lambda count: 1e-300 * rng.random(count),
        lambda count: 1e12 + rng.integers(0, 3, count),
        lambda count: -rng.lognormal(0, 8, count),
    ]
    step, high = int(rng.choice([1, 7, 24])), int(rng.choice([3, 10, 300]))
    pairs = []
    for _ in range(int(rng.integers(1, 5))):
        count = int(rng.integers(1, 6))
        costs = step * rng.integers(0, high, count) + int(rng.integers(0, 3))
        pairs.append((costs, kinds[kind % len(kinds)](count)))
    most = sum(int(costs.max()) for costs, _ in pairs)
    return Problem.from_groups(pairs, int(rng.uniform(0, 1.2) * most))


def brute_force(problem: Problem) -> float:
    """Best value over all plans; -inf if none fits."""
    best = -math.inf
    for choice in itertools.product(*(range(len(group.costs)) for group in problem.groups)):
        picks = list(zip(problem.groups, choice, strict=True))
        if sum(int(group.costs[index]) for group, index in picks) <= problem.budget:
            best = max(best, math.fsum(float(group.values[index]) for group, index in picks))
    return best


@pytest.mark.parametrize("limit_cells", [paper_dp.MOST_CELLS, None])
def test_equals_the_solver_and_brute_force(limit_cells: int | None) -> None:
    rng = np.random.default_rng(1)
    solved = 0
    for number in range(1000):
        problem = random_problem(rng, number)
        best = brute_force(problem)
        if best == -math.inf:
            with pytest.raises(InfeasibleBudget):
                solve_dp(problem)
            continue
        solution = solve_dp(problem, limit_cells=limit_cells or tight(problem))
        other = solve(problem)
        assert solution.status == "optimal"
        assert best - solution.rounding_bound <= solution.value <= best
        assert abs(solution.value - other.value) <= solution.rounding_bound + other.rounding_bound
        assert solution.cost <= problem.budget
        if number % 4 == 0:
            certificate = check(problem, solution)
            certificate.require()
            assert certificate.certified_gap >= 0
        solved += 1
    assert solved > 600


def tight(problem: Problem) -> int:
    """A limit under which only every few rows can be kept, if there is one."""
    most = paper_dp.MOST_CELLS
    with pytest.raises(PlanError) as info:
        solve_dp(problem, limit_cells=1)
    needed = int(str(info.value).split("needs ")[1].split(" cells")[0].replace(",", ""))
    return min(needed, most)


def curves(groups: int, seed: int = 0) -> Problem:
    """Curves in three cost steps with a jump to dense."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, 9)
    pairs = []
    for _ in range(groups):
        step = int(rng.choice([5, 8, 18]))
        tail = rng.lognormal() * (1 - (rank / 20) ** rng.uniform(0.1, 0.7))
        pairs.append((np.append(step * rank, 10 * step), np.append(-step * tail, 0.0)))
    return Problem.from_groups(pairs, int(0.7 * sum(int(costs[-1]) for costs, _ in pairs)))


def test_rows_that_were_dropped_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = curves(50)
    rows: list[int] = []
    next_row = paper_dp._next_row

    def counted(row: FloatArray, level: paper_dp._Level, capacity: int) -> FloatArray:
        rows.append(len(row))
        return next_row(row, level, capacity)

    monkeypatch.setattr(paper_dp, "_next_row", counted)
    whole = solve_dp(problem)
    assert len(rows) == 50
    few = solve_dp(problem, limit_cells=20 * int(whole.stats["max_states"]))
    assert 130 < len(rows) < 150
    assert replace(few, stats={}) == replace(whole, stats={})
    assert whole.value == pytest.approx(solve(problem).value, abs=1e-12)


def test_dense_or_low_rank() -> None:
    pair = ([10, 20, 30, 35], [-1.0, -0.6, -0.4, 0.0])
    solution = solve_dp(Problem.from_groups([pair, pair], 60))
    assert (solution.choice, solution.cost, solution.value) == ((3, 1), 55, -0.6)
    assert (solution.stats["quantum"], solution.stats["capacity"]) == (5, 8)


def test_every_group_takes_a_candidate_even_at_a_loss() -> None:
    assert solve_dp(Problem.from_groups([([1], [5.0]), ([1], [-1.0])], 2)).choice == (0, 0)


def test_ties_take_the_cheapest_then_the_lowest_index() -> None:
    pairs = [([7, 3, 3, 5], [2, 2, 2, 2]), ([9, 9, 0], [4, 4, 4])]
    assert solve_dp(Problem.from_groups(pairs, 100)).choice == (1, 2)
    # Only one upgrade fits, and both cost and gain the same: the last group keeps its cheapest.
    pairs = [([0, 1], [0, 1]), ([0, 1], [0, 1])]
    assert solve_dp(Problem.from_groups(pairs, 1)).choice == (1, 0)
    pairs = [([2, 1, 1, 0], [5, 5, 5, 0]), ([1, 1], [3, 3])]
    assert solve_dp(Problem.from_groups(pairs, 2)).choice == (1, 0)


def test_whole_values_leave_no_rounding_and_others_say_how_much() -> None:
    exact = [([0, 1, 2], [-3.0, 7.0, 2.0**40]), ([0, 1], [0.5, 0.25])]
    assert solve_dp(Problem.from_groups(exact, 2)).rounding_bound == 0.0
    pairs = [([0, 6], [0.0, 1e20]), ([0, 6], [0.0, 0.9e20]), ([0, 1], [0.0, 1e-3])]
    solution = solve_dp(Problem.from_groups(pairs, 10))
    assert solution.gap == solution.rounding_bound > 1e-3
    assert 1e20 - solution.value <= solution.rounding_bound


def test_huge_costs_and_a_budget_beyond_them_stay_exact() -> None:
    unit = 2**55 + 1
    pairs = [([unit, 3 * unit, 5 * unit], [0, 3, 5])] * 3
    solution = solve_dp(Problem.from_groups(pairs, 11 * unit + 17))
    assert (solution.cost, solution.value) == (11 * unit, 11.0)
    loose = solve_dp(Problem.from_groups([([1, 2], [0, 1])] * 3, 2**61))
    assert (loose.choice, loose.stats["max_states"]) == ((1, 1, 1), 4)


def test_nothing_to_choose() -> None:
    assert solve_dp(Problem((), 7)) == solve(Problem((), 7))


def test_budget_below_the_minima_says_the_shortfall() -> None:
    with pytest.raises(InfeasibleBudget, match="which is 4 over the budget of 10"):
        solve_dp(Problem.from_groups([([7, 9], [0, 1])] * 2, 10))


def test_a_fine_lattice_is_refused_before_it_is_built() -> None:
    rng = np.random.default_rng(0)
    costs = rng.integers(10**6, 10**9, (100, 20))
    problem = Problem.from_groups([(row, row.astype(float)) for row in costs], 5 * 10**10)
    tracemalloc.start()
    with pytest.raises(PlanError, match="needs 1,029,367,353,935 cells .*--solver core"):
        solve_dp(problem)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("limit", [0, -1, 1.0, True])
def test_bad_limits_are_named(limit: int) -> None:
    with pytest.raises(PlanError, match="limit_cells"):
        solve_dp(curves(2), limit_cells=limit)


def test_further_limits_are_refused() -> None:
    problem = curves(2)
    limited = replace(problem, limits=(Limit("kv", 9, {"group0": np.arange(9)}),))
    with pytest.raises(PlanError, match="neither limits nor rules"):
        solve_dp(limited)
    with pytest.raises(PlanError, match="neither limits nor rules"):
        printed_dp(limited, unit=1)
