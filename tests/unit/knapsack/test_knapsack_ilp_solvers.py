"""CBC and HiGHS: found, run, read, and killed when they do not answer."""

import importlib
import math
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.ilp import program as ilp_program
from gacfx.knapsack.ilp import solvers as ilp_solvers
from gacfx.knapsack.ilp.core_programs import solve_whole
from gacfx.knapsack.ilp.program import build, fair_goal
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.ilp.solvers import Solver, find_solver
from gacfx.knapsack.ilp.table import tabulate
from gacfx.knapsack.limits import Implies
from gacfx.knapsack.problem import Problem
from tests.unit.knapsack.ilp_problems import PROBLEM, UNEVEN, with_extras


@pytest.mark.skipif(find_spec("highspy") is None, reason="highspy is not installed")
@pytest.mark.parametrize("problem", [PROBLEM, with_extras()])
def test_highs_gives_the_same(problem: Problem) -> None:
    mine, other = solve_ilp(problem, solver="cbc"), solve_ilp(problem, 60, solver="highs")
    check(problem, other).require()
    assert other.status == "optimal"
    assert abs(mine.value - other.value) <= mine.rounding_bound + other.rounding_bound


@pytest.mark.skipif(find_spec("highspy") is None, reason="highspy is not installed")
def test_highs_knows_infeasible_programs() -> None:
    rules = (Implies("group0", (0, 1, 2), "group1", (0,)), Implies("group1", (0,), "group0", (2,)))
    table = tabulate(replace(UNEVEN, rules=rules, budget=21))
    program = build(table, np.arange(len(table.value)), fair_goal(table)[0])
    assert find_solver("highs").run(program).status == "infeasible"
    assert find_solver("cbc").run(program).status == "infeasible"


def test_missing_pulp_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(ilp_program, "import_module", missing)
    with pytest.raises(PlanError, match="pip install pulp"):
        solve_ilp(PROBLEM)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("cbc", "no CBC binary found: install coinor-cbc"),
        ("highs", "HiGHS is not installed: pip install highspy"),
        ("auto", "neither CBC nor HiGHS is installed"),
    ],
)
def test_missing_solvers_say_what_to_install(
    solver: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulp = importlib.import_module("pulp")
    monkeypatch.setattr(pulp.COIN_CMD, "available", lambda self: False)
    monkeypatch.setattr(ilp_solvers, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match=message):
        solve_ilp(PROBLEM, solver=solver)


def test_auto_takes_highs_where_there_is_no_cbc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_solver("auto").name == "cbc"
    monkeypatch.setattr(ilp_solvers, "_cbc_path", lambda: None)
    monkeypatch.setattr(ilp_solvers, "find_spec", lambda name: object())
    assert find_solver("auto").name == "highs"


def python(code: str, seconds: float) -> Solver:
    """A solver that is a line of Python."""
    return Solver("cbc", (sys.executable, "-S", "-c", code), time.perf_counter() + seconds)


def test_a_solver_that_does_not_come_back_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ilp_solvers, "GRACE_SECONDS", 0.1)
    table = tabulate(PROBLEM)
    begin = time.perf_counter()
    with pytest.raises(PlanError, match=r"cbc returned no plan \(status nothing\); raise time_lim"):
        solve_whole(table, python("import time; time.sleep(60)", 0.1))
    assert time.perf_counter() - begin < 20


def test_no_time_left_starts_nothing() -> None:
    answer = Solver("cbc", ("no such binary",), 0.0).run(None)
    assert answer.status == "nothing"
    with pytest.raises(PlanError, match="raise time_limit"):
        solve_ilp(with_extras(), 0)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((sys.executable, "-S", "-c", "raise SystemExit('no licence')"), "ended with 1: no lic"),
        ((sys.executable, "-S", "-c", "pass"), "cbc left no answer; try the other solver"),
        (("/no/such/binary",), "cbc did not start: .*No such file"),
    ],
)
def test_a_solver_that_fails_is_named(command: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        solve_whole(tabulate(PROBLEM), Solver("cbc", command, math.inf))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Optimal - objective value 1\n 0 x1 1 0\n", "optimal"),
        ("Infeasible - objective value 1\n** 0 x1 1 0\n", "infeasible"),
        ("Integer infeasible - objective value 1\n 0 x1 0.5 0\n", "infeasible"),
        ("Stopped on time - objective value 1\n 0 x1 1 0\n", "feasible"),
        (
            "Stopped on time (no integer solution - continuous used) - objective value 1\n"
            " 0 x1 0.5 0\n",
            "nothing",
        ),
        ("Stopped on time - objective value 1\n", "nothing"),
        ("Unbounded - objective value 1\n", "nothing"),
        ("Something new\n", "nothing"),
    ],
)
def test_answers_of_cbc_are_read(text: str, status: str) -> None:
    assert ilp_solvers.read_answer(text, skip=1).status == status


def test_lines_with_stars_are_read_as_well() -> None:
    answer = ilp_solvers.read_answer("Optimal - objective value 1\n** 0 x1 1 -2\n", skip=1)
    assert (answer.value, answer.dual) == ({"x1": 1.0}, {"x1": -2.0})
