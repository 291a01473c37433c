"""Integer programs as a second opinion: scaling, quanta, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.ilp import program as ilp_program
from gacfx.knapsack.ilp.program import fair_goal
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.ilp.table import tabulate
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.problem import Problem
from tests.unit.knapsack.ilp_problems import PROBLEM, UNEVEN


def test_agrees_with_the_solver_and_is_certified() -> None:
    solution = solve_ilp(PROBLEM)
    assert solution.status == "optimal"
    assert solution.value == solve(PROBLEM).value
    assert check(PROBLEM, solution).valid
    assert solution.stats["core_candidates"] == 12


def test_scaling_is_fair() -> None:
    table = tabulate(Problem.from_groups([([0, 1], [5e-9, 9e-9]), ([0, 1], [-2e-9, -1e-9])], 2))
    goal, unit = fair_goal(table)
    assert goal.weight.tolist() == pytest.approx([1000, 0, 250, 0])
    assert unit == pytest.approx(4e-12)


@pytest.mark.parametrize("values", [[3.0, 3.0], [0.0, 1e-300], [0.0, 2e-305], [-1e199, 1e199]])
def test_flat_tiny_and_huge_values_are_scaled(values: list[float]) -> None:
    solution = solve_ilp(Problem.from_groups([([0, 1], values)] * 2, 1))
    assert solution.value == values[0] + values[1]


def test_every_resource_is_counted_in_its_own_quanta() -> None:
    limit = Limit("ns", 1001, {"group0": np.array([1000, 300, 400])})
    table = tabulate(replace(UNEVEN, limits=(limit,)))
    assert table.quantum.tolist() == [4, 100]
    assert table.cost.tolist() == [[0, 1, 3, 0, 2], [7, 0, 1, 0, 0]]
    assert table.room.tolist() == [3, 7]


def test_candidates_that_fit_in_no_plan_are_left_out() -> None:
    table = tabulate(replace(UNEVEN, budget=19))
    assert table.index.tolist() == [0, 1, 0, 1]
    limit = Limit("ns", 5, {"group0": np.array([0, 6, 5])})
    assert tabulate(replace(UNEVEN, limits=(limit,))).index.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("bits", [8, 30, 40])
def test_rows_with_large_coefficients_are_scaled_down(bits: int) -> None:
    problem = Problem.from_groups([([0, 2**bits - 1, 2**bits], [0.0, 1.0, 2.0])] * 3, 2**bits * 2)
    units = ilp_program.row_units(tabulate(problem)).tolist()
    assert units == [10.0 ** max(0, len(str(2**bits)) - 6)]
    assert solve_ilp(problem).choice.count(2) == 2


@pytest.mark.parametrize("bits", [20, 27, 33, 38])
@pytest.mark.parametrize("limited", [False, True])
def test_a_plan_that_fits_to_the_last_unit_is_seen(bits: int, limited: bool) -> None:
    for seed in range(4):
        problem = exact_fit(bits, seed)
        if limited:
            costs = {group.name: group.costs for group in problem.groups}
            most = sum(int(group.costs.max()) for group in problem.groups)
            problem = replace(problem, budget=most, limits=(Limit("ns", problem.budget, costs),))
        found = solve_ilp(problem)
        assert (found.status, found.value) == ("optimal", solve(exact_fit(bits, seed)).value)


def test_costs_too_long_for_the_file_are_never_called_optimal() -> None:
    found = solve_ilp(exact_fit(50, 0))
    assert found.status == "bounded"
    assert found.bound >= solve(exact_fit(50, 0)).value


def exact_fit(bits: int, seed: int) -> Problem:
    """Values are the costs, and some plan uses up the budget."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(1, 2**bits, (3, 4))
    budget = int(costs[np.arange(3), rng.integers(0, 4, 3)].sum())
    return Problem.from_groups([(row, row.astype(float)) for row in costs], budget)


def test_infeasible_problems_are_named() -> None:
    with pytest.raises(InfeasibleBudget, match="over the budget of 4"):
        solve_ilp(Problem.from_groups([([5], [0.0])], 4))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(PlanError, match="solver 'glpk': there are 'cbc', 'highs' and 'auto'"):
        solve_ilp(PROBLEM, solver="glpk")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="time_limit -1"):
        solve_ilp(PROBLEM, -1)
