"""The solver against brute force, the textbook dynamic program and CBC; the checker; JSON.

Seeded random instances where thousands are wanted, hypothesis where a small counterexample helps.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.errors import InfeasibleBudget
from gacfx.planning import (
    Group,
    Problem,
    Solution,
    check,
    kept_budget,
    solve,
    solve_ilp,
)
from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.one_budget import rounds

fixed = settings(derandomize=True, max_examples=60, deadline=None, database=None)


def brute_force(problem: Problem) -> float:
    """Best value over all plans; -inf if none fits."""
    best = -np.inf
    for choice in itertools.product(*(range(len(group.costs)) for group in problem.groups)):
        picks = list(zip(problem.groups, choice, strict=True))
        if sum(int(group.costs[index]) for group, index in picks) <= problem.budget:
            best = max(best, sum(float(group.values[index]) for group, index in picks))
    return best


def textbook_dp(problem: Problem) -> float:
    """Best value by the recurrence over every budget, exactly one candidate per group."""
    unit = int(np.gcd.reduce(np.concatenate([g.costs for g in problem.groups]))) or 1
    table = np.full(problem.budget // unit + 1, -np.inf)
    table[0] = 0
    for group in problem.groups:
        new = np.full(len(table), -np.inf)
        for cost, value in zip((group.costs // unit).tolist(), group.values.tolist(), strict=True):
            if cost < len(table):
                np.maximum(new[cost:], table[: len(table) - cost] + value, out=new[cost:])
        table = new
    return float(table.max())


def nasty_values(rng: np.random.Generator, kind: int, costs: IntArray) -> FloatArray:
    """Ties, flat, falling, tiny, huge and offset values, and the jump to a dense weight."""
    count = len(costs)
    kinds: list[Callable[[], FloatArray]] = [
        lambda: rng.integers(-20, 20, count).astype(np.float64),
        lambda: rng.normal(size=count),
        lambda: costs.astype(np.float64),
        lambda: costs + 0.1 * rng.normal(size=count),
        lambda: 1e9 * np.sqrt(costs) * rng.lognormal(size=count),
        lambda: 1.5e-12 * rng.integers(1, 3, count).astype(np.float64),
        lambda: 1e-300 * np.sqrt(costs),
        lambda: -rng.lognormal(0, 8, count),
        lambda: 1e15 + rng.normal(size=count),
        lambda: np.where(costs == costs.max(), 0.0, -1 - rng.random(count)),
    ]
    return kinds[kind % len(kinds)]()


def random_problem(rng: np.random.Generator, kind: int, most_groups: int = 8) -> Problem:
    """Small problems with unsorted and equal costs, on a lattice or off it."""
    step, high = int(rng.choice([1, 7, 24])), int(rng.choice([3, 10, 50, 300]))
    pairs = []
    for _ in range(int(rng.integers(1, most_groups + 1))):
        costs = rng.integers(0, high, int(rng.integers(1, 8)))
        pairs.append((costs * step, nasty_values(rng, kind, costs)))
    most = sum(int(costs.max()) for costs, _ in pairs)
    return Problem.from_groups(pairs, int(rng.uniform(0, 1.1) * most))


def assert_optimal(problem: Problem, solution: Solution, best: float) -> None:
    dust = 1e-14 * sum(float(np.abs(group.values).max()) for group in problem.groups)
    assert solution.status == "optimal"
    assert abs(solution.value - best) <= solution.rounding_bound + dust
    assert solution.cost <= problem.budget


def solve_or_none(problem: Problem) -> Solution | None:
    try:
        return solve(problem)
    except InfeasibleBudget:
        return None


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_textbook_dp(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(500):
        problem = random_problem(rng, number)
        best, solution = textbook_dp(problem), solve_or_none(problem)
        if solution is None:
            assert best == -np.inf
        else:
            assert_optimal(problem, solution, best)
            if number % 5 == 0:
                certificate = check(problem, solution)
                certificate.require()
                assert certificate.certified_gap >= -solution.rounding_bound


def test_equals_brute_force() -> None:
    rng = np.random.default_rng(10)
    for number in range(200):
        problem = random_problem(rng, number, most_groups=4)
        best, solution = brute_force(problem), solve_or_none(problem)
        if solution is None:
            assert best == -np.inf
        else:
            assert_optimal(problem, solution, best)


def test_equals_the_integer_program() -> None:
    rng = np.random.default_rng(20)
    compared = 0
    for number in itertools.count():
        problem = random_problem(rng, (0, 1, 3, 9)[number % 4])
        solution = solve_or_none(problem)
        if solution is not None:
            other = solve_ilp(problem)
            assert abs(solution.value - other.value) <= other.rounding_bound
            compared += 1
        if compared == 60:
            return


def low_rank_problem(seed: int, dense: bool) -> Problem:
    """Curves like those of SVD pairs in units of 8192, with or without a dense candidate."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(int(rng.integers(20, 40))):
        step, ranks = int(rng.choice([5, 8, 18])), int(rng.integers(20, 70))
        rank = np.arange(1, ranks)
        tail = rng.lognormal() * (1 - (rank / (1.5 * ranks)) ** rng.uniform(0.1, 0.7))
        costs, values = 8192 * step * rank, -step * tail
        if dense:
            costs, values = np.append(costs, 8192 * step * ranks), np.append(values, 0.0)
        pairs.append((costs, values))
    total = sum(int(costs[-1]) for costs, _ in pairs)
    return Problem.from_groups(pairs, int(rng.uniform(0.3, 0.9) * total))


@pytest.mark.parametrize("dense", [False, True])
def test_equals_the_textbook_dp_on_curves(dense: bool) -> None:
    for seed in range(8):
        problem = low_rank_problem(seed, dense)
        assert_optimal(problem, solve(problem), textbook_dp(problem))


def test_bets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_SMALL_CORE", -(10**9))  # every core is worth a bet
    for seed in range(12):
        problem = low_rank_problem(seed, dense=seed % 2 == 0)
        assert_optimal(problem, solve(problem), textbook_dp(problem))
    rng = np.random.default_rng(30)
    for number in range(300):
        small = random_problem(rng, number)
        solution = solve_or_none(small)
        if solution is not None:
            assert_optimal(small, solution, textbook_dp(small))


problems = st.builds(
    lambda pairs, budget: Problem.from_groups(pairs, budget),
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 60), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=5
        ).map(lambda items: ([cost for cost, _ in items], [value for _, value in items])),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 250),
)


@fixed
@given(problems)
def test_a_plan_is_legal_certified_and_best(problem: Problem) -> None:
    solution = solve_or_none(problem)
    best = brute_force(problem)
    if solution is None:
        assert best == -np.inf
        return
    certificate = check(problem, solution)
    certificate.require()
    assert certificate.certified_gap >= 0
    assert_optimal(problem, solution, best)
    for group, index in zip(problem.groups, solution.choice, strict=True):
        as_good = np.flatnonzero(group.values >= group.values[index])
        cheapest = as_good[group.costs[as_good] == group.costs[as_good].min()]
        assert index == cheapest[np.argmax(group.values[cheapest])]


@fixed
@given(problems, st.randoms(use_true_random=False))
def test_order_of_groups_does_not_change_the_value(problem: Problem, random: object) -> None:
    solution = solve_or_none(problem)
    if solution is None:
        return
    turned = list(problem.groups)
    random.shuffle(turned)  # type: ignore[attr-defined]
    again = solve(Problem(tuple(turned), problem.budget))
    assert abs(again.value - solution.value) <= solution.rounding_bound + again.rounding_bound


@fixed
@given(problems, st.data())
def test_the_checker_refuses_what_was_changed(problem: Problem, data: st.DataObject) -> None:
    solution = solve_or_none(problem)
    if solution is None:
        return
    where = data.draw(st.integers(0, len(problem.groups) - 1))
    group, old = problem.groups[where], solution.choice[where]
    new = data.draw(st.integers(-1, len(group.costs)))
    choice = (*solution.choice[:where], new, *solution.choice[where + 1 :])
    certificate = check(problem, replace(solution, choice=choice))
    same = 0 <= new < len(group.costs) and (
        (group.costs[new], group.values[new]) == (group.costs[old], group.values[old])
    )
    # A value too small to change the correctly rounded sum cannot be told apart by the claim.
    unseen = certificate.value is not None and float(certificate.value) == solution.value
    assert certificate.valid == (same or (unseen and certificate.cost == solution.cost))


names = st.text(min_size=1, max_size=8)
labels = st.one_of(st.integers(-9, 9), st.text(max_size=3))


@st.composite
def labelled_problems(draw: st.DrawFn) -> Problem:
    """Groups with names, labels and any finite values, some with a shared cost array."""
    shared = np.array(draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=4)), np.int64)
    shared.setflags(write=False)
    groups = []
    for name in draw(st.lists(names, max_size=4, unique=True)):
        count = len(shared)
        values = draw(st.lists(st.floats(-1e200, 1e200), min_size=count, max_size=count))
        marks = draw(st.lists(labels, min_size=count, max_size=count, unique=True) | st.just([]))
        groups.append(Group(name, shared, np.array(values), tuple(marks)))
    return Problem(tuple(groups), draw(st.integers(0, 2**60)))


@fixed
@given(labelled_problems())
def test_json_round_trip_changes_nothing(problem: Problem) -> None:
    text = problem.to_json()
    assert json.loads(text)["version"] == 1
    assert Problem.from_json(text) == problem
    assert Problem.from_json(text).to_json() == text


@fixed
@given(st.integers(0, 2**60), st.decimals(0, "0.999999", places=6))
def test_kept_budget_is_the_exact_floor(total: int, ratio: object) -> None:
    kept = kept_budget(total, str(ratio))
    exact = (1 - Fraction(str(ratio))) * total
    assert kept <= exact < kept + 1
    assert kept_budget(total, float(str(ratio))) == kept
