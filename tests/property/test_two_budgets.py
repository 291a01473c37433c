"""Two budgets against exact dynamic programs: every value, status, certificate and refusal."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack import Group, Problem, Solution, check
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.two_budgets import core_search as two_core_search
from gacfx.knapsack.two_budgets import dynamic_program as two_program
from gacfx.knapsack.two_budgets.solve import solve_two_budgets
from tests.trials.problems import nasty_values

fixed = settings(derandomize=True, max_examples=80, deadline=None, database=None)


def other_costs(problem: Problem) -> list[list[int]]:
    limit = problem.limits[0]
    return [
        limit.costs[g.name].tolist() if g.name in limit.costs else [0] * len(g.costs)
        for g in problem.groups
    ]


def best_value(problem: Problem) -> Fraction | None:
    """The best value in exact arithmetic, by all pairs of totals; None if no plan keeps both."""
    states = {(0, 0): Fraction(0)}
    most = problem.limits[0].most
    for group, others in zip(problem.groups, other_costs(problem), strict=True):
        grown: dict[tuple[int, int], Fraction] = {}
        candidates = list(zip(group.costs.tolist(), others, group.values.tolist(), strict=True))
        for (spent, used), worth in states.items():
            for cost, other, value in candidates:
                key = spent + cost, used + other
                if key[0] <= problem.budget and key[1] <= most:
                    total = worth + Fraction(value)
                    if key not in grown or grown[key] < total:
                        grown[key] = total
        states = grown
    return max(states.values(), default=None)


def smallest_limit(problem: Problem) -> int:
    """The least that a plan within the budget costs under the limit."""
    states = {0: 0}
    for group, others in zip(problem.groups, other_costs(problem), strict=True):
        grown: dict[int, int] = {}
        for spent, used in states.items():
            for cost, other in zip(group.costs.tolist(), others, strict=True):
                if spent + cost <= problem.budget:
                    key = spent + cost
                    grown[key] = min(grown.get(key, used + other), used + other)
        states = grown
    return min(states.values())


def random_problem(rng: np.random.Generator, kind: int, most_groups: int) -> Problem:
    """Small problems: unsorted and equal costs, limits of all, some or no groups, tight or not."""
    step, other_step = int(rng.choice([1, 7, 24])), int(rng.choice([1, 5, 1000]))
    high, other_high = int(rng.choice([3, 10, 50])), int(rng.choice([2, 10, 50]))
    nested, tied = rng.random() < 0.3, rng.random() < 0.4
    groups, limits = [], {}
    for number in range(int(rng.integers(1, most_groups + 1))):
        costs = rng.integers(0, high, int(rng.integers(1, 7)))
        values = nasty_values(rng, kind, costs)
        groups.append(Group(f"group{number}", costs * step, values))
        if not (nested and rng.random() < 0.5):
            others = costs if tied else rng.integers(0, other_high, len(costs))
            limits[f"group{number}"] = others * other_step
    budget = between(rng, [group.costs for group in groups])
    limit = Limit("second", between(rng, list(limits.values())), limits)
    return Problem(tuple(groups), budget, (limit,))


def between(rng: np.random.Generator, arrays: list[IntArray]) -> int:
    """From a little below the least total to a little above the largest."""
    least = sum(int(array.min()) for array in arrays)
    most = sum(int(array.max()) for array in arrays)
    return max(0, int(least + rng.uniform(-0.02, 1.05) * (most - least)))


def assert_right(problem: Problem) -> str:
    """Solve and compare with the exact program; how it ended."""
    best = best_value(problem)
    if best is None:
        with pytest.raises(InfeasibleBudget) as refused:
            solve_two_budgets(problem)
        if "together" in str(refused.value):
            assert refused.value.needed == smallest_limit(problem) > problem.limits[0].most
            assert refused.value.budget == problem.limits[0].most
        return "infeasible"
    solution = solve_two_budgets(problem)
    assert solution.status == "optimal"
    certificate = check(problem, solution)
    certificate.require()
    assert certificate.value is not None
    assert certificate.certified_gap >= 0
    dust = 2.0**-50 * sum(float(np.abs(group.values).max()) for group in problem.groups)
    assert 0 <= best - certificate.value <= solution.rounding_bound + dust
    return "optimal"


@pytest.mark.parametrize("seed", range(4))
def test_equals_an_exact_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = [assert_right(random_problem(rng, number, 6)) for number in range(200)]
    assert ends.count("infeasible") >= 8
    assert ends.count("optimal") >= 150


def use_every_trick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dominance, learned planes and narrow beams are for large problems; use them on small ones."""
    monkeypatch.setattr(two_program, "_WORTH_SORTING", 0)
    monkeypatch.setattr(two_program, "_WORTH_A_CUT", 1)
    monkeypatch.setattr(two_core_search, "_FIRST_CORE", 2)
    monkeypatch.setattr(two_core_search, "_FIRST_BEAM", 2)
    monkeypatch.setattr(two_core_search, "_BEAMS", (1, 4, 2, 2**18))


def test_equals_an_exact_program_with_every_trick_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    use_every_trick(monkeypatch)
    rng = np.random.default_rng(50)
    for number in range(150):
        assert_right(random_problem(rng, number, 8))


def table(problem: Problem) -> float:
    """Best value of a problem with whole values and small totals, by a table of both rooms."""
    most = problem.limits[0].most
    best = np.full((problem.budget + 1, most + 1), -np.inf)
    best[0, 0] = 0
    for group, others in zip(problem.groups, other_costs(problem), strict=True):
        grown = np.full_like(best, -np.inf)
        for cost, other, value in zip(group.costs.tolist(), others, group.values, strict=True):
            if cost <= problem.budget and other <= most:
                part = best[: problem.budget + 1 - cost, : most + 1 - other] + value
                np.maximum(grown[cost:, other:], part, out=grown[cost:, other:])
        best = grown
    return float(best.max())


def middling(rng: np.random.Generator, curve: str) -> Problem:
    """Thirty groups of six candidates, both rooms about half full."""
    groups, limits = [], {}
    for number in range(30):
        costs = np.sort(rng.integers(0, 12, 6))
        others = rng.integers(0, 9, 6) if curve != "tied" else 12 - costs
        values = {
            "free": rng.integers(0, 60, 6),
            "tied": rng.integers(0, 60, 6),
            "rising": 10 * (costs + others) + rng.integers(0, 6, 6),
            "dense": np.where(costs == costs.max(), 90, 5 * costs + rng.integers(0, 5, 6)),
        }[curve]
        groups.append(Group(f"group{number}", costs, values.astype(np.float64)))
        limits[f"group{number}"] = others
    limit = Limit("second", 190 if curve == "tied" else 110, limits)
    return Problem(tuple(groups), 170, (limit,))


@pytest.mark.parametrize("curve", ["free", "tied", "rising", "dense"])
def test_equals_the_table_where_the_search_has_work(curve: str) -> None:
    rng = np.random.default_rng(7)
    states = 0
    for _ in range(8):
        problem = middling(rng, curve)
        solution = solve_two_budgets(problem)
        check(problem, solution).require()
        assert solution.status == "optimal"
        assert solution.value == table(problem)
        states = max(states, int(solution.stats["max_states"]))
    assert states >= 20


def test_equals_the_table_where_the_dual_is_loose() -> None:
    """Weights that may stay dense: mixtures of a dense and a narrow one."""
    rng = np.random.default_rng(8)
    for _ in range(20):
        problem = middling(rng, "dense")
        groups = tuple(
            Group(g.name, np.append(g.costs, 60), np.append(g.values, rng.integers(200, 500)))
            for g in problem.groups
        )
        costs = problem.limits[0].costs
        costs = {name: np.append(each, rng.integers(20, 60)) for name, each in costs.items()}
        problem = Problem(groups, 500, (Limit("second", 270, costs),))
        solution = solve_two_budgets(problem)
        check(problem, solution).require()
        assert solution.status == "optimal"
        assert solution.value == table(problem)


small = st.integers(0, 6)
rows = st.lists(st.tuples(small, small, st.integers(-9, 9)), min_size=1, max_size=4)


@fixed
@given(st.lists(rows, min_size=1, max_size=4), st.integers(0, 20), st.integers(0, 20))
def test_any_small_problem(
    groups: list[list[tuple[int, int, int]]], budget: int, most: int
) -> None:
    names = [f"group{number}" for number in range(len(groups))]
    columns = [np.array(group).T for group in groups]
    limit = Limit("second", most, {n: c[1] for n, c in zip(names, columns, strict=True)})
    problem = Problem(
        tuple(Group(n, c[0], c[2].astype(float)) for n, c in zip(names, columns, strict=True)),
        budget,
        (limit,),
    )
    assert_right(problem)


def solved(problem: Problem) -> Solution | None:
    try:
        return solve_two_budgets(problem)
    except InfeasibleBudget:
        return None


def test_budget_and_limit_may_change_places() -> None:
    rng = np.random.default_rng(20)
    for number in range(60):
        problem = random_problem(rng, number % 2, 5)
        others = other_costs(problem)
        turned = Problem(
            tuple(
                Group(g.name, np.array(other), g.values)
                for g, other in zip(problem.groups, others, strict=True)
            ),
            problem.limits[0].most,
            (Limit("first", problem.budget, {g.name: g.costs for g in problem.groups}),),
        )
        one, two = solved(problem), solved(turned)
        assert (one is None) == (two is None)
        if one and two:
            assert one.value == pytest.approx(two.value, abs=one.rounding_bound + 1e-12)


def test_scaling_changes_nothing() -> None:
    rng = np.random.default_rng(21)
    for number in range(40):
        problem = random_problem(rng, number, 5)
        one = solved(problem)
        limit = problem.limits[0]
        scaled = Problem(
            tuple(Group(g.name, g.costs * 1024, g.values * 0.25) for g in problem.groups),
            problem.budget * 1024 + 1023,
            (Limit("x", limit.most * 3 + 2, {name: c * 3 for name, c in limit.costs.items()}),),
        )
        two = solved(scaled)
        assert (one is None) == (two is None)
        if one and two:
            assert two.choice == one.choice
            assert two.value == one.value * 0.25
