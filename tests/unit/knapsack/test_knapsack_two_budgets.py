"""Two budgets at the door: easy cases, refusals, guards, honesty, degenerate input."""

from dataclasses import replace

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import Group, PrecisionWarning, Problem, check
from gacfx.knapsack.limits import Limit, SameLabel
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.two_budgets import solve as two_budgets
from gacfx.knapsack.two_budgets.solve import solve_two_budgets

STEP = {"attention": 5, "mlp": 18}


def small(budget: int, most: int) -> Problem:
    """Two groups; candidate k of each costs (k, 2 - k) and is worth k or 2k."""
    costs = np.array([0, 1, 2])
    groups = (Group("a", costs, np.array([0.0, 1, 2])), Group("b", costs, np.array([0.0, 2, 4])))
    return Problem(groups, budget, (Limit("other", most, {"a": 2 - costs, "b": 2 - costs}),))


def weights(seed: int, *, count: int = 60, noise: float = 0.0, share: float = 0.97) -> Problem:
    """Ranks of weights that may stay dense, parameters and a staircase of nanoseconds."""
    rng = np.random.default_rng(seed)
    rank = 8 * np.arange(1, 41)
    groups, limits = [], {}
    for number in range(count):
        kind = ("attention", "mlp")[number % 2]
        costs = np.append(STEP[kind] * rank, STEP[kind] * 330)
        tail = 1 - np.cumsum(np.arange(1, 331) ** -rng.uniform(0.5, 1.5)) / 12
        values = np.append(rng.lognormal() * STEP[kind] * (tail[-1] - tail[rank - 1]), 0.0)
        latency = -(-costs // (64 * STEP[kind])) * 640 * (1.3 if kind == "attention" else 1.0)
        latency = latency * (1 + noise * rng.random(len(costs)))
        groups.append(Group(f"{kind}{number}", costs, values))
        limits[f"{kind}{number}"] = np.rint(latency).astype(np.int64) + 200
    least, most = (sum(int(pick(group.costs)) for group in groups) for pick in (np.min, np.max))
    alone = Problem(tuple(groups), (3 * most + least) // 4)
    used = spent(replace(alone, limits=(Limit("ns", 0, limits),)), core.solve(alone).choice)
    low = sum(int(costs.min()) for costs in limits.values())
    return replace(alone, limits=(Limit("ns", int(low + share * (used - low)), limits),))


def cache(seed: int) -> Problem:
    """The same weights, but the limit counts the ranks of every fourth one only."""
    problem = weights(seed)
    costs = {group.name: group.costs // 5 for group in problem.groups[::4]}
    full = Limit("cache", 0, costs)
    used = spent(replace(problem, limits=(full,)), core.solve(replace(problem, limits=())).choice)
    return replace(problem, limits=(replace(full, most=used * 7 // 10),))


def spent(problem: Problem, choice: tuple[int, ...]) -> int:
    costs = problem.limits[0].costs
    picks = zip(problem.groups, choice, strict=True)
    return sum(int(costs[group.name][index]) for group, index in picks if group.name in costs)


def test_by_hand() -> None:
    """Cost 3 of 4 may be spent, and two may be missing at most: (1, 2) is best."""
    solution = solve_two_budgets(small(budget=3, most=2))
    assert (solution.choice, solution.value, solution.cost) == ((1, 2), 5.0, 3)
    assert solution.status == "optimal"
    assert solution.gap == solution.rounding_bound == 0
    assert type(solution.cost) is int
    assert all(type(index) is int for index in solution.choice)


def test_both_bind_exactly() -> None:
    """Cost and limit of every plan add up to 4, so these rooms leave one total only."""
    problem = small(budget=2, most=2)
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert (solution.choice, solution.value) == ((0, 2), 4.0)


def test_a_limit_that_never_binds_has_no_price() -> None:
    problem = weights(0)
    loose = replace(problem, limits=(replace(problem.limits[0], most=2**60),))
    solution = solve_two_budgets(loose)
    check(loose, solution).require()
    assert solution.choice == core.solve(replace(problem, limits=())).choice
    assert solution.limit_multipliers == (0.0,)
    assert solution.multiplier > 0
    assert "planes" not in solution.stats, "the core solver alone was enough"


def test_a_limit_without_costs_is_none() -> None:
    problem = replace(weights(0), limits=(Limit("nothing", 0, {}),))
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert solution.value == core.solve(replace(problem, limits=())).value


def test_a_budget_that_never_binds_has_no_price() -> None:
    problem = replace(weights(0, share=0.8), budget=2**60)
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert solution.status == "optimal"
    assert solution.multiplier == 0.0
    assert solution.limit_multipliers[0] > 0
    assert "planes" not in solution.stats, "the core solver alone was enough"
    assert spent(problem, solution.choice) > 0.99 * problem.limits[0].most


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_weights_under_parameters_and_latency(noise: float) -> None:
    problem = weights(1, noise=noise)
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert solution.status == "optimal"
    assert solution.multiplier > 0
    assert solution.limit_multipliers[0] > 0
    assert solution.value < core.solve(replace(problem, limits=())).value


def test_a_limit_on_some_groups() -> None:
    problem = cache(2)
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert solution.status == "optimal"
    assert solution.limit_multipliers[0] > 0


def test_the_checker_certifies_a_small_gap() -> None:
    problem = weights(3)
    solution = solve_two_budgets(problem)
    assert 0 <= check(problem, solution).certified_gap < 1e-2 * abs(solution.value)


@pytest.mark.parametrize("problem", [weights(4), cache(4)], ids=["latency", "cache"])
def test_is_deterministic(problem: Problem) -> None:
    one, two = solve_two_budgets(problem), solve_two_budgets(problem)
    stats = one.stats | {"seconds": 0}, two.stats | {"seconds": 0}
    assert replace(one, stats=stats[0]) == replace(two, stats=stats[1])


def test_order_of_groups_does_not_change_the_value() -> None:
    problem = weights(5)
    turned = replace(problem, groups=problem.groups[::-1])
    assert solve_two_budgets(turned).value == pytest.approx(
        solve_two_budgets(problem).value, rel=1e-14
    )


def test_takes_the_cheapest_of_equals() -> None:
    costs, others = np.array([3, 2, 2, 2]), np.array([1, 3, 1, 1])
    problem = Problem((Group("a", costs, np.ones(4)),), 9, (Limit("other", 9, {"a": others}),))
    assert solve_two_budgets(problem).choice == (2,)


def test_budget_alone_is_too_small() -> None:
    problem = Problem((Group("a", np.array([5, 6]), np.zeros(2)),), 4, (Limit("other", 4, {}),))
    with pytest.raises(InfeasibleBudget, match="costs 5, which is 1 over the budget of 4") as got:
        solve_two_budgets(problem)
    assert (got.value.needed, got.value.budget) == (5, 4)


def test_limit_alone_is_too_small() -> None:
    limit = Limit("cache", 7, {"a": np.array([4, 5, 6]), "b": np.array([9, 9, 4])})
    with pytest.raises(InfeasibleBudget, match="costs 8, which is 1 over the limit 'cache'") as got:
        solve_two_budgets(replace(small(9, 9), limits=(limit,)))
    assert (got.value.needed, got.value.budget) == (8, 7)


@pytest.mark.parametrize(("budget", "most", "needed"), [(1, 2, 3), (0, 3, 4), (3, 0, 1)])
def test_both_together_are_too_small(budget: int, most: int, needed: int) -> None:
    with pytest.raises(InfeasibleBudget, match="each be kept, but not together") as got:
        solve_two_budgets(small(budget, most))
    assert f"within the budget 'other' needs {needed}, which is {needed - most} more" in str(
        got.value
    )
    assert (got.value.needed, got.value.budget) == (needed, most)


def test_together_infeasible_though_mixtures_fit() -> None:
    """Half of each candidate would keep both rooms, but no whole one does."""
    costs = {name: np.array([0, 10]) for name in "abc"} | {"fine": np.array([0, 1])}
    groups = tuple(Group(name, cost, np.array([0.0, 1.0])) for name, cost in costs.items())
    limit = Limit("other", 17, {name: cost[::-1] for name, cost in costs.items()})
    with pytest.raises(InfeasibleBudget, match="together") as got:
        solve_two_budgets(Problem(groups, 15, (limit,)))
    assert got.value.needed == 20


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gap": -1.0}, "gap -1.0: must be a number >= 0"),
        ({"gap": float("nan")}, "gap nan: must be a number >= 0"),
        ({"time_limit": True}, "time_limit True: must be a number >= 0"),
    ],
)
def test_refuses_bad_amounts(options: dict[str, float], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        solve_two_budgets(small(3, 2), **options)


def test_refuses_what_it_cannot_keep() -> None:
    problem = small(3, 2)
    limit = problem.limits[0]
    for wrong in (
        replace(problem, limits=()),
        replace(problem, limits=(limit, replace(limit, name="third"))),
        replace(problem, rules=(SameLabel(("a", "b")),)),
    ):
        with pytest.raises(PlanError, match="one limit and no rules"):
            solve_two_budgets(wrong)


def test_without_groups_there_is_nothing_to_choose() -> None:
    problem = Problem((), 5, (Limit("other", 0, {}),))
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert (solution.choice, solution.value, solution.limit_multipliers) == ((), 0.0, (0.0,))


def test_one_candidate_per_group() -> None:
    groups = tuple(Group(f"g{i}", np.array([i]), np.array([float(-i)])) for i in range(5))
    problem = Problem(groups, 10, (Limit("other", 5, {g.name: np.array([1]) for g in groups}),))
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert solution.choice == (0,) * 5
    assert solution.status == "optimal"


def test_no_time_still_gives_a_plan_and_an_honest_bound() -> None:
    problem = weights(6, noise=0.05)
    best = solve_two_budgets(problem)
    hurried = solve_two_budgets(problem, time_limit=0)
    check(problem, hurried).require()
    assert hurried.status == "bounded"
    assert hurried.gap > 0
    assert hurried.value <= best.value <= hurried.bound + 1e-9


def test_no_time_and_no_easy_plan() -> None:
    """Every plan fills both rooms to the last unit, so that raised prices find none."""
    rng = np.random.default_rng(0)
    groups = tuple(Group(f"g{i}", np.arange(9), rng.random(9)) for i in range(9))
    limit = Limit("other", 36, {group.name: 8 - group.costs for group in groups})
    problem = Problem(groups, 36, (limit,))
    for time_limit in (0, None):
        solution = solve_two_budgets(problem, time_limit=time_limit)
        check(problem, solution).require()
        assert solution.cost == 36


def test_the_work_guard_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = weights(6, noise=0.05)
    best = solve_two_budgets(problem)
    monkeypatch.setattr(two_budgets, "_MOST_STEPS", 2000)
    guarded = solve_two_budgets(problem)
    check(problem, guarded).require()
    assert guarded.status == "bounded"
    assert guarded.stats["steps"] < 100_000
    assert guarded.value <= best.value <= guarded.bound + 1e-9


def test_a_gap_ends_the_search_early() -> None:
    problem = weights(6, noise=0.05)
    best = solve_two_budgets(problem)
    wanted = 1e-3 * abs(best.value)
    close = solve_two_budgets(problem, gap=wanted)
    check(problem, close).require()
    assert best.value - close.value <= close.gap <= wanted
    assert close.stats["steps"] < best.stats["steps"]


def test_any_gap_is_good_enough() -> None:
    problem = weights(6)
    solution = solve_two_budgets(problem, gap=float("inf"))
    check(problem, solution).require()


def test_huge_costs_stay_whole() -> None:
    """Costs beyond 2**53 have no exact float64, but sums of them still must not pass a room."""
    big = 2**59
    groups = tuple(
        Group(f"g{i}", np.array([0, big + 1 + i]), np.array([0.0, 1.0 + i])) for i in range(3)
    )
    limits = {group.name: np.array([0, big + 7]) for group in groups}
    problem = Problem(groups, 2 * big + 4, (Limit("other", 2 * big + 14, limits),))
    solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert (solution.choice, solution.cost) == ((1, 0, 1), 2 * big + 4)


def test_warns_when_values_are_too_small_to_tell_apart() -> None:
    rng = np.random.default_rng(1)
    groups = [Group(f"g{i}", np.arange(6), rng.random(6) * 1e12) for i in range(6)]
    groups.append(Group("tiny", np.arange(6), rng.random(6) * 1e-9))
    limits = {group.name: rng.integers(0, 6, 6) for group in groups}
    problem = Problem(tuple(groups), 14, (Limit("other", 14, limits),))
    with pytest.warns(PrecisionWarning, match="1 groups have values too small"):
        solution = solve_two_budgets(problem)
    check(problem, solution).require()
    assert 0 < solution.rounding_bound < 1
