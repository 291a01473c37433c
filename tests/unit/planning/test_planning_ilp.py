"""CBC as a second opinion, and what is said when it is missing or wrong."""

import importlib
from types import ModuleType

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.planning import Problem, check, ilp, solve, solve_ilp
from gacfx.planning.lattice import flatten

PROBLEM = Problem.from_groups([([10, 20, 30, 35], [-1.0, -0.6, -0.4, 0.0])] * 3, 80)


def test_agrees_with_the_solver_and_is_certified() -> None:
    solution = solve_ilp(PROBLEM)
    assert solution.status == "optimal"
    assert solution.value == solve(PROBLEM).value
    assert check(PROBLEM, solution).valid


def test_scaling_is_fair() -> None:
    flat = flatten(Problem.from_groups([([0, 1], [5e-9, 9e-9]), ([0, 1], [-2e-9, -1e-9])], 2))
    objective, scale = ilp._fair_values(flat)
    assert objective.tolist() == pytest.approx([0, 1000, 0, 250])
    assert scale == pytest.approx(1000 / 4e-9)


def test_flat_values_need_no_scale() -> None:
    assert solve_ilp(Problem.from_groups([([0, 1], [3.0, 3.0])], 1)).value == 3.0


def test_infeasible_and_empty_problems_are_named() -> None:
    with pytest.raises(InfeasibleBudget):
        solve_ilp(Problem.from_groups([([5], [0.0])], 4))
    with pytest.raises(PlanError, match="at least one group"):
        solve_ilp(Problem((), 4))


def test_missing_pulp_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(ilp, "import_module", missing)
    with pytest.raises(PlanError, match="pip install pulp"):
        solve_ilp(PROBLEM)


def test_missing_cbc_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pulp = importlib.import_module("pulp")
    monkeypatch.setattr(pulp.COIN_CMD, "available", lambda self: False)
    with pytest.raises(PlanError, match="install coinor-cbc"):
        solve_ilp(PROBLEM)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ([1, 0, 1, 1], "exactly one candidate per group"),
        ([1, 0, None, 0], "exactly one candidate per group"),
        ([0, 1, 0, 1], "over the budget"),
    ],
)
def test_wrong_plans_of_cbc_are_refused(taken: list[float | None], message: str) -> None:
    flat = flatten(Problem.from_groups([([0, 4], [0, 1])] * 2, 7))
    with pytest.raises(PlanError, match=message):
        ilp._checked(flat, taken)
    assert np.array_equal(ilp._checked(flat, [0.0, 1.0, 1.0, 0.0]), [1, 2])
