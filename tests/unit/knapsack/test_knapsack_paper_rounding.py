"""The rules of thumb of GAC-v1: what they pick, their true budget error, what they refuse."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import Group, Problem, Solution, check, solve
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.paper.rounding import Repair, round_nearest, solve_greedy, solve_rounded
from gacfx.knapsack.paper.wanted import DENSE, floor_choice, nearest_choice

Wanted = dict[str, float]


def group(
    name: str, ranks: list[int], values: list[float], per_rank: int = 1, dense: int | None = None
) -> Group:
    """A low-rank pair; ``dense`` is the cost of the whole weight, which is worth 0."""
    labels: list[int | str] = list(ranks)
    costs = [per_rank * rank for rank in ranks]
    if dense is not None:
        labels, costs, values = [*labels, DENSE], [*costs, dense], [*values, 0.0]
    return Group(name, np.array(costs), np.array(values, np.float64), tuple(labels))


def one(ranks: list[int], dense: int | None = None, budget: int = 10**6) -> Problem:
    """One group, cost 10 per rank."""
    values = np.arange(-len(ranks), 0, dtype=np.float64).tolist()
    return Problem((group("w", ranks, values, 10, dense),), budget)


@pytest.mark.parametrize(
    ("wanted", "floor", "nearest"),
    [
        (107.3, 104, 104),
        (104.0, 104, 104),
        (111.9, 104, 112),
        (3.0, 96, 96),  # below the smallest
        (500.0, 128, 128),
        (108.0, 104, 112),  # halfway: 13 * 8 is odd, 14 * 8 is even
        (100.0, 96, 96),  # halfway: 12 * 8 is even
        (120.0, 112, 128),  # halfway between 7 * 16 and 8 * 16
        (110.0, 104, 112),
    ],
)
def test_where_a_wanted_rank_falls(wanted: float, floor: int, nearest: int) -> None:
    ranks = [128, 96, 112, 104]  # in any order
    problem = one(ranks)
    assert ranks[floor_choice(problem, {"w": wanted})[0]] == floor
    assert ranks[nearest_choice(problem, {"w": wanted})[0]] == nearest


def test_halfway_between_no_multiples_takes_the_lower() -> None:
    assert nearest_choice(one([5, 8]), {"w": 6.5}) == [0]


@pytest.mark.parametrize(
    ("wanted", "floor", "nearest"), [(24.0, 1, 1), (28.4, 1, 1), (28.6, 1, 2), (33.0, 2, 2)]
)
def test_dense_stands_at_the_rank_that_costs_as_much(
    wanted: float, floor: int, nearest: int
) -> None:
    problem = one([16, 24], dense=330)  # 10 per rank: break-even is 33, halfway up is 28.5
    assert floor_choice(problem, {"w": wanted}) == [floor]
    assert nearest_choice(problem, {"w": wanted}) == [nearest]


def test_a_group_that_can_only_stay_dense_stays_so() -> None:
    only = Problem((Group("w", np.array([9]), np.array([0.0]), (DENSE,)),), 9)
    assert floor_choice(only, {"w": 3.3}) == nearest_choice(only, {"w": 3.3}) == [0]


def two_layers(budget: int) -> tuple[Problem, Wanted]:
    """Steps of 8: a gains 4 then 1 for 8 each, b gains 3 then 2 for 8 each."""
    a = group("a", [8, 16, 24], [0, 4, 5])
    b = group("b", [8, 16, 24], [0, 3, 5])
    return Problem((a, b), budget), {"a": 8.9, "b": 8.9}


@pytest.mark.parametrize(
    ("budget", "choice"),
    [(16, (0, 0)), (24, (1, 0)), (32, (1, 1)), (40, (1, 2)), (48, (2, 2)), (47, (1, 2))],
)
def test_greedy_takes_the_best_ratio_first(budget: int, choice: tuple[int, int]) -> None:
    problem, wanted = two_layers(budget)
    assert solve_greedy(problem, wanted).choice == choice


def test_greedy_never_downgrades() -> None:
    # a is wanted large though it is worth little; the optimum takes it back and lifts b instead.
    problem, _ = two_layers(32)
    solution = solve_greedy(problem, {"a": 24.0, "b": 8.0})
    assert (solution.choice, solution.value, solve(problem).value) == ((2, 0), 5.0, 7.0)
    assert solution.status == "bounded"
    assert solution.gap >= 2.0


def test_greedy_passes_over_what_does_not_fit() -> None:
    wide = group("a", [8, 16], [0, 100], per_rank=10)
    narrow = group("b", [8, 16, 24], [0, 1, 2])
    problem = Problem((wide, narrow), 80 + 8 + 79)
    assert solve_greedy(problem, {"a": 8.0, "b": 8.0}).choice == (0, 2)


def test_greedy_does_not_pay_for_nothing() -> None:
    flat = Problem((group("a", [8, 16, 24], [1, 1, 0]),), 100)
    assert solve_greedy(flat, {"a": 8.0}).choice == (0,)


def test_greedy_breaks_ties_by_the_smaller_step_then_the_earlier_group() -> None:
    groups = (group("a", [8, 24], [0, 2]), group("b", [8, 16], [0, 1]), group("c", [8, 16], [0, 1]))
    wanted = {"a": 8.0, "b": 8.0, "c": 8.0}
    assert solve_greedy(Problem(groups, 24 + 8), wanted).choice == (0, 1, 0)
    assert solve_greedy(Problem(groups, 24 + 16), wanted).choice == (0, 1, 1)


def test_of_equal_costs_both_rules_take_the_best_and_the_first() -> None:
    costs, values = np.array([5, 9, 9, 9]), np.array([0.0, 1.0, 3.0, 3.0])
    problem = Problem((Group("w", costs, values, (1, 2, 3, 4)),), 9)
    assert solve_greedy(problem, {"w": 1.0}).choice == (2,)
    dearer = Group("w", np.append(costs, 12), np.append(values, 4.0), (1, 2, 3, 4, 5))
    over = Problem((dearer,), 11)
    assert solve_rounded(over, {"w": 5.0}, repair="greedy_down").choice == (2,)


def test_a_plan_that_meets_the_bound_is_called_optimal() -> None:
    problem, wanted = two_layers(1000)
    solution = solve_greedy(problem, wanted)
    assert (solution.choice, solution.value) == ((2, 2), 10.0)
    assert solution.gap < 1e-9
    assert (solution.status == "optimal") == (solution.gap == 0)


def test_round_nearest_tells_its_true_budget_error() -> None:
    problem, _ = two_layers(40)
    over = round_nearest(problem, {"a": 20.5, "b": 23.0})
    assert (over.choice, over.cost, over.value, over.budget_error) == ((2, 2), 48, 10.0, 8)
    under = round_nearest(problem, {"a": 8.0, "b": 17.0})
    assert (under.choice, under.budget_error) == ((0, 1), -16)


def test_rounded_over_the_budget_is_refused_or_repaired() -> None:
    problem, wanted = two_layers(40)[0], {"a": 20.5, "b": 23.0}
    with pytest.raises(PlanError, match="costs 48, which is 8 over the budget of 40.*greedy_down"):
        solve_rounded(problem, wanted)
    repaired = solve_rounded(problem, wanted, repair="greedy_down")
    assert (repaired.choice, repaired.value) == ((1, 2), 9.0)  # a loses 1 for its 8, b would lose 2
    assert check(problem, repaired).valid


def test_repair_gives_up_the_least_value_per_cost() -> None:
    # a loses 3 for 80 and b loses 1 for 8: per cost a is the cheaper to give up.
    wide, narrow = group("a", [8, 16], [0, 3], per_rank=10), group("b", [8, 16], [0, 1])
    problem = Problem((wide, narrow), 170)
    assert solve_rounded(problem, {"a": 16, "b": 16}, repair="greedy_down").choice == (0, 1)


def test_rounded_may_use_the_whole_budget() -> None:
    problem, wanted = two_layers(48)[0], {"a": 24.0, "b": 24.0}
    assert solve_rounded(problem, wanted).cost == 48


def test_rounded_within_the_budget_is_left_as_it_is() -> None:
    problem, wanted = two_layers(40)[0], {"a": 8.0, "b": 17.0}
    assert solve_rounded(problem, wanted).choice == (0, 1)
    assert solve_rounded(problem, wanted, repair="greedy_down").choice == (0, 1)


def random_case(rng: np.random.Generator) -> tuple[Problem, Wanted]:
    """Low-rank pairs with any curve; some may stay dense; d* uses about the budget."""
    groups, wanted, most = [], {}, 0
    for number in range(int(rng.integers(1, 6))):
        step, count = int(rng.integers(1, 9)), int(rng.integers(1, 7))
        ranks = (8 * np.sort(rng.choice(np.arange(1, 12), count, replace=False))).tolist()
        values = np.sort(-rng.lognormal(size=count))
        if rng.random() < 0.3:
            rng.shuffle(values)
        dense = step * 100 if rng.random() < 0.5 else None
        groups.append(group(f"w{number}", ranks, values.tolist(), step, dense))
        wanted[f"w{number}"] = float(rng.uniform(0, 100))
        most += step * 100
    return Problem(tuple(groups), int(rng.uniform(0.1, 1.0) * most)), wanted


def or_none(solver: str, problem: Problem, wanted: Wanted) -> Solution | None:
    try:
        if solver == "greedy":
            return solve_greedy(problem, wanted)
        repair: Repair = "none" if solver == "none" else "greedy_down"
        return solve_rounded(problem, wanted, repair=repair)
    except PlanError:
        return None


def cost_of(problem: Problem, choice: list[int]) -> int:
    return sum(int(group.costs[i]) for group, i in zip(problem.groups, choice, strict=True))


def assert_no_step_left(problem: Problem, solution: Solution) -> None:
    """No group has a next candidate in cost order that gains something and fits."""
    for group, index in zip(problem.groups, solution.choice, strict=True):
        dearer = np.flatnonzero(group.costs > group.costs[index])
        if len(dearer):
            step = dearer[np.argmin(group.costs[dearer])]
            fits = solution.cost + group.costs[step] - group.costs[index] <= problem.budget
            assert not (fits and group.values[step] > group.values[index])


def test_random_problems() -> None:
    rng = np.random.default_rng(7)
    seen = dict.fromkeys(("infeasible", "greedy", "none", "greedy_down"), 0)
    for number in range(500):
        problem, wanted = random_case(rng)
        try:
            best = solve(problem)
        except InfeasibleBudget:
            assert not any(or_none(solver, problem, wanted) for solver in seen)
            seen["infeasible"] += 1
            continue
        rounded = round_nearest(problem, wanted)
        assert rounded.cost == cost_of(problem, list(rounded.choice))
        assert rounded.budget_error == rounded.cost - problem.budget
        starts_over = cost_of(problem, floor_choice(problem, wanted)) > problem.budget
        for solver in ("greedy", "none", "greedy_down"):
            solution = or_none(solver, problem, wanted)
            if solution is None:
                assert starts_over if solver == "greedy" else rounded.budget_error > 0
                assert solver != "greedy_down"
                continue
            seen[solver] += 1
            assert solution.cost <= problem.budget
            assert solution.value <= best.value + best.rounding_bound <= solution.bound + 1e-9
            if number % 4 == 0:
                certificate = check(problem, solution)
                certificate.require()
                assert float(certificate.certified_gap) <= solution.gap + 1e-12
            if solver == "greedy":
                assert_no_step_left(problem, solution)
    assert min(seen.values()) > 40
    assert sum(seen.values()) - seen["infeasible"] > 500


def test_nothing_to_choose() -> None:
    empty = Problem((), 7)
    assert solve_greedy(empty, {}) == solve_rounded(empty, {}) == solve(empty)


def test_budget_below_the_minima_says_the_shortfall() -> None:
    problem, wanted = two_layers(11)
    for solver in (solve_greedy, solve_rounded):
        with pytest.raises(InfeasibleBudget, match="which is 5 over the budget of 11"):
            solver(problem, wanted)


def test_a_start_over_the_budget_says_by_how_much() -> None:
    problem, _ = two_layers(30)
    with pytest.raises(PlanError, match="already costs 10 more than the budget of 30") as info:
        solve_greedy(problem, {"a": 24.0, "b": 16.0})
    assert not isinstance(info.value, InfeasibleBudget)


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, True, "8", None])
def test_bad_sizes_are_named(number: float) -> None:
    problem, _ = two_layers(30)
    for solver in (solve_greedy, solve_rounded, round_nearest):
        with pytest.raises(PlanError, match="group 'b': wanted size"):
            solver(problem, {"a": 8.0, "b": number})


def test_numpy_sizes_and_names_of_others_are_fine() -> None:
    problem, _ = two_layers(32)
    wanted: dict[str, Any] = {"a": np.float32(8.5), "b": np.int64(8), "lm_head": math.nan}
    assert solve_greedy(problem, wanted).choice == (1, 1)


def test_missing_sizes_are_listed() -> None:
    groups = tuple(group(f"w{i}", [8], [0]) for i in range(6))
    with pytest.raises(
        PlanError, match=r"no size for 'w1', 'w2', 'w3' and 2 more; .*--solver core"
    ):
        solve_greedy(Problem(groups, 99), {"w0": 8.0})


@pytest.mark.parametrize(
    ("labels", "message"),
    [((), "no labels"), ((8, "16"), "label '16'"), (("all", 8), "label 'all'")],
)
def test_labels_that_are_no_sizes_are_named(labels: tuple[int | str, ...], message: str) -> None:
    problem = Problem((Group("w", np.array([8, 16]), np.array([0.0, 1.0]), labels),), 99)
    with pytest.raises(PlanError, match=f"group 'w': {message}"):
        solve_greedy(problem, {"w": 8.0})


def test_further_limits_are_refused() -> None:
    problem, wanted = two_layers(40)
    limited = replace(problem, limits=(Limit("kv", 9, {"a": np.array([1, 2, 3])}),))
    for solver in (solve_greedy, solve_rounded):
        with pytest.raises(PlanError, match="neither limits nor rules"):
            solver(limited, wanted)


def test_bad_repairs_are_named() -> None:
    problem, wanted = two_layers(40)
    with pytest.raises(PlanError, match="repair 'up': known are none, greedy_down"):
        solve_rounded(problem, wanted, repair="up")  # type: ignore[arg-type]
