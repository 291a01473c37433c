"""Each fault of the printed Algorithm 1 on a problem small enough to see through."""

import math

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.knapsack import Group, Problem, solve
from gacfx.knapsack.paper.dp import solve_dp
from tests.unit.knapsack.paper_printed import printed_dp

LLAMA_8B_LAYER = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)]
LLAMA_8B_LAYER += [(14336, 4096), (14336, 4096), (4096, 14336)]
LLAMA_UNIT = 8 * 1024


def test_a_harmless_problem_comes_out_right() -> None:
    # group1 has one candidate and nothing to lose by it, costs are whole units: no fault bites.
    problem = Problem.from_groups([([1, 2], [1, 3]), ([2], [2])], 4)
    result = printed_dp(problem, unit=1)
    assert result.choice == solve_dp(problem).choice == (1, 0)
    assert (result.claimed_value, result.cost, result.overrun) == (5.0, 4, 0)


def test_fault_1_a_group_that_would_lose_is_given_nothing() -> None:
    # Taking nothing is worth 0, which beats the only candidate of group1; no such plan exists.
    problem = Problem.from_groups([([1], [5.0]), ([1], [-1.0])], 2)
    result = printed_dp(problem, unit=1)
    assert result.unassigned == ("group1",)
    assert result.choice == (0, None)
    assert result.claimed_value == 5.0 > solve(problem).value == 4.0


def test_fault_2_a_later_candidate_overwrites_a_better_one() -> None:
    # group1: its second candidate (1) writes over what its first (10) had made of the same cells.
    problem = Problem.from_groups([([1, 2], [5, 6]), ([1, 2], [10, 1])], 3)
    assert solve(problem).value == 16.0
    assert printed_dp(problem, unit=1).claimed_value == 6.0


def test_fault_2_the_order_of_candidates_decides() -> None:
    # Cheapest last, the first group keeps its cheapest only: larger ones are overwritten by -inf.
    up = Problem.from_groups([([1, 2], [1, 9])], 2)
    down = Problem.from_groups([([2, 1], [9, 1])], 2)
    assert printed_dp(up, unit=1).claimed_value == 9.0
    assert printed_dp(down, unit=1).claimed_value == 1.0
    assert solve_dp(down).value == 9.0


def test_fault_3_a_unit_of_another_kind_divides_no_step() -> None:
    # M_min = 64 gives u = 512, but eight ranks of this pair cost 8 * (64 + 96) = 2.5 u.
    step = 8 * (64 + 96)
    problem = Problem.from_groups([([step], [1]), ([2 * step], [2])], 3 * step)
    assert solve_dp(problem).cost == problem.budget
    # 3 u and 5 u are over the 7 u of the budget, so the plan that fits exactly is not found.
    assert printed_dp(problem, 8 * 64, "ceil").claimed_value == -math.inf


def test_fault_4_floor_and_nearest_overrun_the_budget_and_ceil_wastes_it() -> None:
    # True plan: one step of 14 and one of 4 (18 of 20), worth 11.
    problem = Problem.from_groups([([4, 14], [1, 10])] * 2, 20)
    assert solve(problem).cost == 18
    floor = printed_dp(problem, 10, "floor")  # 14 counts as 1: two of them are "20"
    assert (floor.cost, floor.overrun) == (28, 8)
    nearest = printed_dp(problem, 10, "nearest")  # and so it does here
    assert (nearest.cost, nearest.overrun) == (28, 8)
    ceil = printed_dp(problem, 10, "ceil")  # 4 counts as 1 and 14 as 2: nothing beside the 14
    assert (ceil.cost, ceil.overrun, ceil.unassigned) == (14, -6, ("group1",))


def test_nearest_takes_halves_up() -> None:
    problem = Problem.from_groups([([5], [1])], 9)
    assert printed_dp(problem, 10, "floor").choice == (0,)
    assert printed_dp(problem, 10, "nearest").claimed_value == -math.inf


def test_fault_5_the_table_has_no_shift() -> None:
    # 2 quanta above the cheapest plan are all there is to decide, but the table has 2e9 columns.
    problem = Problem.from_groups([([10**9, 10**9 + 1], [0, 1])] * 2, 2 * 10**9 + 2)
    assert solve_dp(problem).stats["capacity"] == 2
    with pytest.raises(PlanError, match="4,000,000,006 cells.*no shift"):
        printed_dp(problem, unit=1)


def test_fault_6_an_infeasible_budget_is_not_noticed() -> None:
    result = printed_dp(Problem.from_groups([([5], [1])] * 2, 3), unit=1)
    assert result.choice == (None, None)
    assert (result.claimed_value, result.cost, result.overrun) == (-math.inf, 0, -3)


def llama_window(layers: int, seed: int = 0) -> Problem:
    """Llama-3-8B shapes, eight ranks around a d* ~ sqrt(importance), Eq. 4 as value, ratio 0.15."""
    rng = np.random.default_rng(seed)
    shapes = LLAMA_8B_LAYER * layers
    importance = rng.lognormal(0.0, 0.8, len(shapes))
    top = np.array([m * n / (m + n) for m, n in shapes])
    size = np.array([m * n for m, n in shapes])
    budget = int(size.sum() * 17 // 20)
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        share = np.minimum(middle * importance**0.5, 1.0)
        low, high = (middle, high) if (share * size).sum() <= budget else (low, middle)
    groups = []
    for number, (m, n) in enumerate(shapes):
        wanted = min(low * importance[number] ** 0.5, 1.0) * top[number]
        last = int(top[number]) // 8
        first = int(np.clip(wanted // 8 - 3, 1, last - 7))
        ranks = 8 * np.arange(first, first + 8)
        values = importance[number] * (ranks - wanted) * (m + n)
        groups.append(Group(f"w{number}", ranks * (m + n), values, tuple(ranks.tolist())))
    return Problem(tuple(groups), budget)


def test_on_llama_shapes_nearly_half_of_the_weights_get_nothing() -> None:
    problem = llama_window(layers=4)
    best, result = solve(problem), printed_dp(problem, LLAMA_UNIT)
    assert best.value == solve_dp(problem).value
    assert 0.3 < len(result.unassigned) / len(problem.groups) < 0.6
    assert result.cost < 0.7 * problem.budget
    assert result.claimed_value > 1.5 * best.value  # above what any plan is worth


@pytest.mark.parametrize("unit", [0, -8, 8.0, True, 2**62])
def test_bad_units_are_named(unit: int) -> None:
    with pytest.raises(PlanError, match="unit"):
        printed_dp(Problem.from_groups([([1], [1])], 1), unit)


def test_bad_roundings_are_named() -> None:
    with pytest.raises(PlanError, match="rounding 'up': known are floor, nearest, ceil"):
        printed_dp(Problem.from_groups([([1], [1])], 1), 1, "up")  # type: ignore[arg-type]
