"""Limits and rules together: three ways to plan agree with brute force, and none is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.ilp.solvers import SolverName
from gacfx.knapsack.limits import Implies, Limit, SameLabel
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules.merge import merge
from gacfx.knapsack.rules.product import multiply
from gacfx.knapsack.solution import Solution
from tests.unit.knapsack.small_problems import brute_force, keeps_all, random_problem


def assert_best(problem: Problem, solution: Solution) -> None:
    """Legal, as good as brute force within its own rounding bound, and certified."""
    best = brute_force(problem)
    assert keeps_all(problem, solution.choice)
    assert solution.status == "optimal"
    assert best - solution.value <= solution.rounding_bound + 1e-14 * abs(best)
    certificate = check(problem, solution)
    certificate.require()
    assert certificate.bound is not None
    assert certificate.bound >= best - 1e-14 * abs(best)


def assert_no_plan(problem: Problem, error: PlanError) -> None:
    assert brute_force(problem) == -np.inf
    assert isinstance(error, InfeasibleBudget) or "none in common" in str(error)


def compare(seed: int, count: int, solver: SolverName, shrink: bool) -> None:
    """So many problems that have a plan, and those without one that come between."""
    rng = np.random.default_rng(seed)
    planned = 0
    while planned < count:
        problem = random_problem(rng)
        try:
            solution = solve_ilp(problem, solver=solver, shrink=shrink)
        except PlanError as error:
            assert_no_plan(problem, error)
        else:
            assert_best(problem, solution)
            planned += 1


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_integer_programs_equal_brute_force(seed: int, shrink: bool) -> None:
    compare(seed, 26, "cbc", shrink)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_whole_and_shrunk_programs_agree(seed: int) -> None:
    problem = random_problem(np.random.default_rng(seed))
    try:
        whole = solve_ilp(problem, shrink=False)
    except PlanError as error:
        with pytest.raises(type(error)):
            solve_ilp(problem, shrink=True)
        return
    core = solve_ilp(problem, shrink=True)
    assert abs(whole.value - core.value) <= whole.rounding_bound + core.rounding_bound


def test_one_label_by_merging_equals_one_label_by_equalities() -> None:
    rng = np.random.default_rng(60)
    seen = 0
    while seen < 30:
        problem = random_problem(rng, limits=1, rules=1)
        ties = [rule for rule in problem.rules if isinstance(rule, SameLabel)]
        if not ties or brute_force(problem) == -np.inf:
            continue
        seen += 1
        rules = [rule for rule in problem.rules if isinstance(rule, Implies)]
        groups = {group.name: group for group in problem.groups}
        first, *others = (groups[name] for name in ties[0].groups)
        for other in others:  # label by label, both ways
            rules += as_implications(first, other) + as_implications(other, first)
        assert_best(problem, solve_ilp(problem))
        written_out = replace(problem, rules=tuple(rules))
        assert_best(written_out, solve_ilp(written_out))


def as_implications(group: Group, other: Group) -> list[Implies]:
    mine, known = (one.labels or tuple(range(len(one.costs))) for one in (group, other))
    return [
        Implies(group.name, (label,), other.name, (label,) if label in known else ())
        for label in mine
    ]


def test_products_equal_brute_force() -> None:
    rng = np.random.default_rng(70)
    seen = 0
    while seen < 300:
        problem = random_problem(rng, limits=0, ties=False)
        product = multiply(problem)
        if product is None:
            assert brute_force(problem) == -np.inf
            continue
        assert product.problem.rules == ()
        try:
            solution = product.invert(solve(product.problem))
        except InfeasibleBudget as error:
            assert_no_plan(problem, error)
        else:
            assert_best(problem, solution)
            seen += 1


def test_products_keep_limits() -> None:
    rng = np.random.default_rng(71)
    seen = 0
    while seen < 40:
        problem = random_problem(rng, limits=2)
        if brute_force(problem) == -np.inf:
            continue
        seen += 1
        merged = merge(problem)
        product = multiply(merged.problem)
        assert product is not None
        solution = merged.invert(product.invert(solve_ilp(product.problem)))
        assert_best(problem, solution)


GATE = Group("gate", np.array([2, 5, 9]), np.array([0.0, 1.0, 5.5]), (8, 16, "dense"))
UP = Group("up", np.array([1, 4, 6]), np.array([0.0, 3.0, 4.0]), (8, 16, "dense"))


@pytest.mark.parametrize(
    ("rule", "choice"),
    [
        (Implies("gate", ("dense",), "up", ("dense",)), (1, 2)),
        (Implies("gate", (16, "dense"), "up", (8,)), (2, 0)),
        (Implies("up", (8, 16), "gate", (8, 16)), (1, 2)),
        (Implies("gate", ("dense",), "up", ()), (1, 2)),
        (Implies("gate", (8, 16), "gate", ("dense",)), (2, 0)),
        (SameLabel(("gate", "up")), (1, 1)),
    ],
)
def test_rules_by_label(rule: Implies | SameLabel, choice: tuple[int, ...]) -> None:
    problem = Problem((GATE, UP), 11, (), (rule,))
    assert solve_ilp(problem).choice == choice
    merged = merge(problem)
    product = multiply(merged.problem)
    assert product is not None
    assert merged.invert(product.invert(solve(product.problem))).choice == choice


def test_rules_by_index_where_there_are_no_labels() -> None:
    groups = tuple(replace(group, labels=()) for group in (GATE, UP))
    problem = Problem(groups, 11, (), (Implies("gate", (2,), "up", (2,)),))
    assert solve_ilp(problem).choice == (1, 2)


def test_too_many_combinations_are_left_to_an_integer_program() -> None:
    many = tuple(
        Group(f"g{number}", np.arange(9), np.sqrt(np.arange(9.0) * (1 + number)))
        for number in range(9)
    )
    rules = tuple(Implies("g0", (8,), group.name, (5, 6, 7, 8)) for group in many[1:])
    problem = Problem(many, 48, (), rules)
    assert multiply(problem) is None
    solution = solve_ilp(problem)
    check(problem, solution).require()
    assert solution.status == "optimal"


def test_a_limit_without_groups_costs_nothing_and_one_of_nothing_binds() -> None:
    empty, nothing = Limit("empty", 0, {}), Limit("none", 0, {"up": np.array([0, 1, 2])})
    solution = solve_ilp(Problem((GATE, UP), 99, (empty, nothing)))
    assert solution.choice == (2, 0)
    assert len(solution.limit_multipliers) == 2


def test_a_problem_without_groups_has_the_empty_plan() -> None:
    problem = Problem((), 3, (Limit("a", 1, {}), Limit("b", 0, {})))
    solution = solve_ilp(problem)
    assert (solution.choice, solution.limit_multipliers) == ((), (0.0, 0.0))
    check(problem, solution).require()


@pytest.mark.parametrize(
    ("budget", "most", "message", "needed"),
    [
        (2, 5, "^the cheapest plan costs 3, which is 1 over the budget of 2", 3),
        (9, 1, "^the cheapest plan costs 2, which is 1 over the limit 'kv' of 1", 2),
    ],
)
def test_what_cannot_be_kept_alone_is_named(
    budget: int, most: int, message: str, needed: int
) -> None:
    kv = Limit("kv", most, {"gate": np.array([3, 2, 2]), "up": np.array([2, 1, 0])})
    with pytest.raises(InfeasibleBudget, match=message) as caught:
        solve_ilp(Problem((GATE, UP), budget, (kv,)))
    assert caught.value.needed == needed


def test_what_cannot_be_kept_together_is_named_with_the_budget_that_would_do() -> None:
    kv = Limit("kv", 2, {"gate": np.array([3, 2, 2]), "up": np.array([2, 1, 0])})
    rule = Implies("gate", (16,), "up", (8,))
    problem = Problem((GATE, UP), 11, (kv,), (rule,))
    with pytest.raises(InfeasibleBudget) as caught:
        solve_ilp(problem)
    text = str(caught.value)
    assert "the budget 11, limit 'kv' (2), rule Implies(group='gate'" in text
    assert "though the budget and each limit can be kept alone" in text
    assert "a budget of 15 would do" in text
    assert (caught.value.needed, caught.value.budget) == (15, 11)
    assert solve_ilp(replace(problem, budget=15)).cost == 15


def test_rules_that_exclude_each_other_are_named() -> None:
    rules = tuple(Implies("gate", GATE.labels, "up", (label,)) for label in (8, 16, "dense", 8, 16))
    with pytest.raises(InfeasibleBudget, match="1 more rules together.*no budget would help") as no:
        solve_ilp(Problem((GATE, UP), 99, (), rules))
    assert no.value.needed == 3
