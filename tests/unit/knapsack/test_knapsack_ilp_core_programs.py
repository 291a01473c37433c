"""Programs over few candidates: multipliers, what is proven, what is refused."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.ilp import core_programs
from gacfx.knapsack.ilp.column_generation import dual, evaluate
from gacfx.knapsack.ilp.core_programs import read_plan, solve_core, solve_whole
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.ilp.solvers import Answer, Solver, Status, find_solver
from gacfx.knapsack.ilp.table import tabulate
from gacfx.knapsack.limits import Implies, Limit
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.rules.product import multiply
from tests.unit.knapsack.ilp_problems import PROBLEM, weights, with_extras
from tests.unit.knapsack.small_problems import brute_force, random_problem

CBC = find_solver("cbc")


@dataclass(frozen=True)
class Says(Solver):
    """CBC, with another status for programs in whole numbers."""

    status: Status = "feasible"

    def run(self, program: Any, *, whole: bool = True) -> Answer:
        answer = CBC.run(program, whole=whole)
        return replace(answer, status=self.status) if whole else answer


FIND = "gacfx.knapsack.ilp.solve.find_solver"


def says(status: Status) -> Says:
    return Says("cbc", (), math.inf, status)


@pytest.mark.parametrize(
    ("ones", "message"),
    [
        ([2, 3], "exactly one candidate per group"),
        ([0], "exactly one candidate per group"),
        ([0, 1, 2], "exactly one candidate per group"),
        ([1, 4], "a plan 4 over the budget"),
        ([1, 3], "a plan 1 over limit 1"),
        ([0, 3], "a plan that breaks 1 rules"),
    ],
)
def test_wrong_plans_are_refused_whatever_the_status(ones: list[int], message: str) -> None:
    costs = [([0, 4], [0, 1]), ([0, 4, 1], [0, 1, 2])]
    rows = {"group0": np.array([0, 1]), "group1": np.array([0, 0, 1])}
    rules = (Implies("group0", (0,), "group1", (0, 1)),)
    problem = Problem(Problem.from_groups(costs, 7).groups, 7, (Limit("ns", 1, rows),), rules)
    table = tabulate(replace(problem, budget=7))
    if ones == [1, 4]:
        table = replace(table, room=np.array([4, 1]))
    wrong = Answer("optimal", {f"x{place}": 1.0 for place in ones}, {})
    plan, fault = read_plan(table, wrong)
    assert plan is None
    assert message in fault
    right = Answer("optimal", {"x0": 1.0, "x1": 0.0, "x2": 0.99999, "x3": 1e-7}, {})
    assert np.array_equal(read_plan(table, right)[0], [0, 2])  # type: ignore[arg-type]


def test_multipliers_are_those_of_the_linear_relaxation() -> None:
    problem = weights(6, 40)
    table = tabulate(replace(problem, rules=()))
    found = dual(table, CBC)
    exact = solve(replace(problem, rules=()))
    assert found.price[0] / table.quantum[0] == pytest.approx(exact.multiplier, rel=1e-6)
    assert found.loss.min() == 0
    assert found.bound >= exact.value


def test_any_multipliers_bound_every_plan() -> None:
    rng = np.random.default_rng(9)
    for _ in range(100):
        problem = random_problem(rng, ties=False)
        best = brute_force(problem)
        if best == -np.inf:
            continue
        table = tabulate(problem)
        prices = rng.exponential(size=len(table.room)) * 10.0 ** rng.integers(-12, 1)
        found = evaluate(table, prices, rng.exponential(size=len(table.links)))
        assert found.bound >= best


def test_multipliers_of_rules_and_limits_close_the_gap() -> None:
    problem = weights(8, 60)
    solution = solve_ilp(problem)
    certificate = check(problem, solution)
    certificate.require()
    without = check(replace(problem, rules=()), solution)
    assert solution.status == "optimal"
    assert float(certificate.certified_gap) < 0.02 * abs(solution.value)
    assert without.certified_gap > 3 * certificate.certified_gap


def test_a_core_of_few_candidates_is_enough() -> None:
    problem = weights(20, 300)
    solution = solve_ilp(problem, 120)
    product = multiply(problem)
    assert product is not None
    exact = product.invert(solve(product.problem))
    assert solution.status == exact.status == "optimal"
    assert abs(solution.value - exact.value) <= solution.rounding_bound + exact.rounding_bound
    assert solution.stats["core_candidates"] < solution.stats["candidates"] / 10


def test_cores_grow_until_they_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in (with_extras(), weights(6, 40)):
        whole = solve_ilp(problem, shrink=False)
        monkeypatch.setattr(core_programs, "_FIRST_CORE", 1)
        grown = solve_ilp(problem)
        monkeypatch.undo()
        assert grown.stats["programs"] > 2
        assert grown.status == "optimal"
        assert abs(grown.value - whole.value) <= grown.rounding_bound + whole.rounding_bound


def test_a_core_that_was_too_small_leaves_a_true_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_programs, "_FIRST_CORE", 1)
    problem = weights(6, 40)
    best, table = solve_ilp(problem).value, tabulate(problem)
    rounds = core_programs.CoreSearch(table, dual(table, CBC), CBC, size=table.groups + 1)
    seen = []
    while not rounds.done:
        rounds.look()
        assert rounds.value <= best + rounds.tolerance
        assert rounds.bound >= best - 1e-9
        seen.append((rounds.bound, rounds.proven))
    assert [proven for _, proven in seen] == [False] * (len(seen) - 1) + [True]
    assert [bound for bound, _ in seen] == sorted((bound for bound, _ in seen), reverse=True)


def test_what_the_solver_did_not_prove_is_bounded() -> None:
    table = tabulate(with_extras())
    found = dual(table, CBC)
    core = solve_core(table, found, says("feasible"))
    assert not core.claimed
    assert core.bound == found.bound
    assert not solve_whole(table, says("feasible")).claimed


def test_a_bounded_solution_is_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    best = {problem: solve_ilp(problem).value for problem in (with_extras(), PROBLEM)}
    monkeypatch.setattr(FIND, lambda name, deadline: says("feasible"))
    for problem, value in best.items():
        solution = solve_ilp(problem)
        assert solution.status == "bounded"
        assert solution.bound >= value
        assert solution.bound == solution.value + solution.gap
        check(problem, solution).require()


def test_a_solver_that_contradicts_itself_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    solvers = {"infeasible": says("infeasible")}

    @dataclass(frozen=True)
    class Once(Solver):
        def run(self, program: Any, *, whole: bool = True) -> Answer:
            return solvers.pop("infeasible", CBC).run(program, whole=whole)

    once = Once("cbc", (), math.inf)
    monkeypatch.setattr(FIND, lambda name, deadline: once)
    with pytest.raises(
        PlanError, match="cbc finds no plan within the budget of 80, and then one th"
    ):
        solve_ilp(PROBLEM)


def test_a_solver_that_finds_nothing_in_any_core_is_named() -> None:
    table = tabulate(with_extras())
    with pytest.raises(PlanError, match=r"cbc returned no plan \(status nothing\)"):
        solve_core(table, dual(table, CBC), says("nothing"))


def test_infeasible_cores_are_widened_and_only_the_whole_one_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_programs, "_FIRST_CORE", 1)
    table = tabulate(with_extras())
    found = solve_core(table, dual(table, CBC), says("infeasible"))
    assert (found.position, found.core) == (None, len(table.value))
    assert found.programs > 1
