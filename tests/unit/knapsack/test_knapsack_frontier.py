"""The frontier: plans best for their own cost, plans in between with a certified gap, the ends."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import Group, Problem, check, solve
from gacfx.knapsack.arrays import LARGEST_COST
from gacfx.knapsack.frontier.plans import Frontier, frontier, points


def keep_dense(seed: int, groups: int = 20) -> Problem:
    """Concave curves of three steps, each with a jump to dense at the end."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, 40)
    pairs = []
    for _ in range(groups):
        step = int(rng.choice([5, 8, 18]))
        tail = rng.lognormal() * (1 - (rank / 90) ** rng.uniform(0.1, 0.7))
        pairs.append((8 * np.append(step * rank, step * 40), np.append(-step * tail, 0.0)))
    return Problem.from_groups(pairs, 0)  # the budget of the problem plays no part


def budgets_of(best: Frontier, count: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(rng.integers(best.cost[0], best.cost[-1] + 20)) for _ in range(count)]


def test_dense_or_low_rank() -> None:
    # The way goes from rank 1 straight to dense in both groups; half a step buys the second rank.
    pair = ([10, 20, 30, 35], [-1.0, -0.7, -0.6, 0.0])
    best = frontier(Problem.from_groups([pair, pair], 0))
    assert best.cost.tolist() == [20, 45, 70]
    assert best.value == pytest.approx([-2, -1, 0])
    assert best.multiplier == pytest.approx([0.04, 0.04, 0])
    plan = best.plan_at(56)
    assert (plan.choice, plan.cost, plan.status) == ((3, 1), 55, "bounded")
    assert plan.value == pytest.approx(-0.7)
    assert plan.bound == pytest.approx(-1 + 0.04 * 10)
    assert plan.usable_budget == 55


def test_every_plan_on_the_way_is_optimal_and_certified() -> None:
    for seed in range(3):
        problem = keep_dense(seed)
        best = frontier(problem)
        assert len(best.cost) > 100
        for number in np.random.default_rng(seed).choice(len(best.cost), 25).tolist():
            at = replace(problem, budget=int(best.cost[number]))
            plan = best.plan_at(at.budget)
            assert (plan.cost, plan.status) == (at.budget, "optimal")
            assert abs(plan.value - best.value[number]) <= best.rounding_bound
            assert abs(plan.value - solve(at).value) <= best.rounding_bound
            certificate = check(at, plan)
            certificate.require()
            assert certificate.certified_gap <= best.rounding_bound


def test_plans_in_between_have_an_honest_gap() -> None:
    for seed in range(3):
        problem = keep_dense(seed)
        best = frontier(problem)
        for budget in budgets_of(best, 40, seed):
            at = replace(problem, budget=budget)
            plan, exact = best.plan_at(budget), solve(at)
            assert plan.value <= exact.value + exact.rounding_bound
            assert exact.value <= plan.bound
            certificate = check(at, plan)
            certificate.require()
            assert certificate.bound is not None
            assert certificate.bound <= plan.bound


def test_part_of_a_step_is_taken() -> None:
    problem = keep_dense(4)
    best = frontier(problem)
    number = int(np.argmax(np.diff(best.cost)))  # a jump to dense
    before, after = best.cost[number : number + 2].tolist()
    values = [best.point_at(budget).value for budget in range(before, after + 1, 8)]
    assert values == sorted(values)
    assert len(set(values)) > 5


def test_points_tell_what_plans_tell() -> None:
    best = frontier(keep_dense(5))
    for budget in budgets_of(best, 30, 5):
        point, plan = best.point_at(budget), best.plan_at(budget)
        assert (point.budget, point.cost, point.multiplier) == (budget, plan.cost, plan.multiplier)
        assert point.value == pytest.approx(plan.value, rel=1e-13)
        assert point.gap == pytest.approx(plan.gap, abs=1e-12)
        assert point.bound >= point.value


def test_points_are_spread_evenly_and_rise() -> None:
    best = frontier(keep_dense(6))
    found = points(best, 33)
    budgets = [point.budget for point in found]
    assert (budgets[0], budgets[-1]) == (best.cost[0], best.cost[-1])
    assert set(np.diff(budgets)) <= {(budgets[-1] - budgets[0]) // 32 + more for more in (0, 1)}
    for before, after in itertools.pairwise(found):
        assert before.value <= after.value + best.rounding_bound
        assert before.bound <= after.bound + best.rounding_bound
        assert before.multiplier >= after.multiplier
        assert after.cost <= after.budget
    assert found[0].gap <= best.rounding_bound
    assert found[-1].gap == best.rounding_bound


def test_fewer_points_where_there_are_fewer_budgets() -> None:
    best = frontier(Problem.from_groups([([3, 5], [0, 1])], 0))
    assert [point.budget for point in points(best, 9)] == [3, 4, 5]
    assert len(points(frontier(Problem.from_groups([([3], [0])], 0)), 9)) == 1


@pytest.mark.parametrize("count", [1, 0, 2.0, True, "9"])
def test_bad_counts_are_refused(count: int) -> None:
    with pytest.raises(PlanError, match="must be an int >= 2"):
        points(frontier(keep_dense(0)), count)


def test_infeasible_says_what_is_needed() -> None:
    best = frontier(Problem.from_groups([([4, 2], [9, 1]), ([1], [0])], 0))
    with pytest.raises(InfeasibleBudget, match="1 over the budget of 2; allow at least 3") as info:
        best.plan_at(2)
    assert (info.value.needed, info.value.budget) == (3, 2)
    with pytest.raises(InfeasibleBudget, match="allow at least 3"):
        best.point_at(0)


@pytest.mark.parametrize(("budget", "message"), [(True, "bool"), (9.0, "int"), (-1, "0 .. 2")])
def test_bad_budgets_are_refused(budget: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        frontier(keep_dense(0)).plan_at(budget)


def test_candidates_may_come_in_any_order() -> None:
    rng = np.random.default_rng(1)
    problem = keep_dense(1)
    mixed = []
    for group in problem.groups:
        order = rng.permutation(len(group.costs))
        mixed.append(Group(group.name, group.costs[order], group.values[order]))
    best, other = frontier(problem), frontier(Problem(tuple(mixed), 0))
    assert best.value.tobytes() == other.value.tobytes()
    for budget in budgets_of(best, 9, 1):
        picks, others = best.plan_at(budget).choice, other.plan_at(budget).choice
        for group, twin, index, place in zip(problem.groups, mixed, picks, others, strict=True):
            assert group.costs[index] == twin.costs[place]


def test_equal_candidates_give_the_lowest_index() -> None:
    best = frontier(Problem.from_groups([([2, 1, 1, 0, 2], [5, 4, 4, 0, 5])], 0))
    assert [best.plan_at(budget).choice for budget in range(4)] == [(3,), (1,), (0,), (0,)]


def test_more_than_everything_is_optimal() -> None:
    problem = keep_dense(2)
    best = frontier(problem)
    for budget in (int(best.cost[-1]), LARGEST_COST - 1):
        plan = best.plan_at(budget)
        assert (plan.gap, plan.status, plan.cost) == (0.0, "optimal", best.cost[-1])
        check(replace(problem, budget=budget), plan).require()
    assert best.plan_at(2**80).choice == plan.choice


def test_nothing_to_choose() -> None:
    best = frontier(Problem((), 7))
    assert best.plan_at(3).choice == ()
    check(Problem((), 3), best.plan_at(3)).require()
    assert [point.value for point in points(best, 4)] == [0.0]


@pytest.mark.parametrize(
    "pairs",
    [
        [([3], [2.0])],
        [([3, 9], [2.0, 2.0]), ([4, 4], [-1.0, -5.0])],
        [([1, 2, 3], [5.0, 4.0, 3.0])] * 3,
    ],
)
def test_one_plan_when_there_is_nothing_to_gain(pairs: list[tuple[list[int], list[float]]]) -> None:
    problem = Problem.from_groups(pairs, 0)
    best = frontier(problem)
    assert len(best.cost) == 1
    plan = best.plan_at(99)
    assert (plan.gap, plan.choice) == (0.0, (0,) * len(pairs))
    check(replace(problem, budget=99), plan).require()


@pytest.mark.parametrize("slope", [0.1, 1 / 3])
def test_straight_curves_have_a_plan_for_every_candidate(slope: float) -> None:
    costs = 7 * np.arange(1, 200)
    best = frontier(Problem.from_groups([(costs, slope * costs), (costs, 2 * slope * costs)], 0))
    assert len(best.cost) == 2 * 198 + 1
    assert best.plan_at(7 * 201).choice == (1, 198)


def test_the_bound_covers_what_counts_as_straight() -> None:
    # Every group has one candidate a little above its straight line; a plan may take all of these,
    # the frontier takes one group after the other.
    costs = np.arange(101)
    values = costs / 128
    values[50] += 0.9 * 2.0**-48 * values[-1]
    best = frontier(Problem.from_groups([(costs, values)] * 40, 0))
    plan = best.plan_at(40 * 50)
    assert len(best.cost) == 40 * 100 + 1
    assert plan.status == "optimal"
    assert 40 * Fraction(values[50]) > Fraction(plan.value)
    assert 40 * Fraction(values[50]) <= Fraction(plan.bound)


def test_huge_costs_stay_exact() -> None:
    unit = 2**53 + 1
    problem = Problem.from_groups([([0, unit, 3 * unit, 60 * unit], [0, 2, 3, 70])] * 4, 0)
    best = frontier(problem)
    assert best.cost[-1] == 240 * unit
    for budget in (unit - 1, 2 * unit, 100 * unit + 5, 240 * unit - 1, 2**61):
        at = replace(problem, budget=budget)
        plan = best.plan_at(budget)
        check(at, plan).require()
        assert plan.value <= solve(at).value <= plan.bound
    assert [point.budget for point in points(best, 3)] == [0, 120 * unit, 240 * unit]


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e190])
def test_the_scale_of_values_does_not_matter(scale: float) -> None:
    plain = keep_dense(3)
    scaled = replace(
        plain, groups=tuple(Group(g.name, g.costs, g.values * scale) for g in plain.groups)
    )
    best, other = frontier(plain), frontier(scaled)
    for budget in budgets_of(best, 9, 3):
        assert other.plan_at(budget).choice == best.plan_at(budget).choice
        check(replace(scaled, budget=budget), other.plan_at(budget)).require()


def test_runs_are_alike_and_results_read_only() -> None:
    first, again = frontier(keep_dense(8)), frontier(keep_dense(8))
    for name in ("cost", "value", "multiplier"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
        with pytest.raises(ValueError, match="read-only"):
            getattr(first, name)[0] = 0
    assert first.plan_at(20_000) == again.plan_at(20_000)


def test_the_last_point_bounds_what_everything_is_worth() -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        groups = int(rng.integers(2, 9))
        scale = 10.0 ** rng.integers(-3, 3, (groups, 1))
        values = np.sort(rng.random((groups, 4)) * scale, axis=1)
        costs = np.sort(rng.integers(0, 40, (groups, 4)), axis=1)
        best = frontier(Problem.from_groups(list(zip(costs, values, strict=True)), 0))
        everything = sum(Fraction(row.max()) for row in values)
        assert Fraction(best.point_at(10**4).bound) >= everything
