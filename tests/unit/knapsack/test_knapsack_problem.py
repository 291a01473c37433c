"""Problems: what is refused and with which words, sharing of arrays, budgets."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gacfx.errors import PlanError
from gacfx.knapsack import Group, Problem, kept_budget

BAD_COSTS: list[tuple[ArrayLike, str]] = [
    ([], "group 'q': no candidate left"),
    ([[1, 2]], r"costs have shape \(1, 2\)"),
    ([1, -2], "cost -2 of candidate 1 < 0"),
    ([1.5, 2.0], "cost 1.5 of candidate 0 is not a whole number"),
    ([1.0, np.nan], "cost nan of candidate 1 is not a whole number"),
    ([2.0**53, 1.0], r"not a whole number below 2\*\*53"),
    ([2**62, 1], r"cost 4611686018427387904 is not below 2\*\*62"),
    (np.array([2**63], np.uint64), r"whole numbers below 2\*\*62"),
    ([2**70, 1], r"whole numbers below 2\*\*62"),
    (np.array([3, 1], np.uint32), "unsigned integers, whose differences wrap around"),
    ([True, 2], "costs hold a bool"),
    (np.array([True, False]), "costs hold a bool"),
    (["8", "16"], "costs have dtype <U2"),
    ([[1], [1, 2]], "not a list of numbers"),
]

BAD_VALUES: list[tuple[ArrayLike, str]] = [
    ([], "no candidate left"),
    ([0.0, np.nan], "value of candidate 1 is nan"),
    ([-np.inf, 0.0], "value of candidate 0 is -inf"),
    ([1e250, 0.0], "a value is beyond 1e200"),
    ([2**60, 0], r"a value beyond 2\*\*53"),
    ([True, False], "values hold a bool"),
    ([1j, 0], "values have dtype complex128"),
    ([0.0], "2 costs but 1 values"),
]


def group(name: str = "q", labels: tuple[int | str, ...] = ()) -> Group:
    return Group(name, np.array([8, 16]), np.array([-1.0, 0.0]), labels)


@pytest.mark.parametrize(("costs", "message"), BAD_COSTS)
def test_bad_costs_are_named(costs: ArrayLike, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Group("q", costs, np.zeros(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(("values", "message"), BAD_VALUES)
def test_bad_values_are_named(values: ArrayLike, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Group("q", np.array([8, 16]), values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((8,), "1 labels for 2 candidates"),
        ((8, 8), "label 8 stands for two candidates"),
        ((8, 1.5), "neither int nor str"),
        ((True, 8), "neither int nor str"),
    ],
)
def test_bad_labels_are_named(labels: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        group(labels=labels)


@pytest.mark.parametrize("name", ["", 7])
def test_a_group_needs_a_name(name: str) -> None:
    with pytest.raises(PlanError, match="group name"):
        group(name)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (True, "budget is a bool"),
        (1.5, "must be an int"),
        (-1, "must lie in 0"),
        (2**62, "must lie in 0"),
    ],
)
def test_bad_budgets_are_named(budget: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Problem((group(),), budget)


def test_duplicate_names_are_refused() -> None:
    with pytest.raises(PlanError, match="group 'q': the name is used twice"):
        Problem((group(), group()), 10)


def test_costs_whose_sum_leaves_int64_are_refused() -> None:
    pairs = [(np.array([2**61]), np.zeros(1))] * 2
    with pytest.raises(PlanError, match=r"sum to 2\*\*62 or more"):
        Problem.from_groups(pairs, 10)


def test_arrays_are_read_only_copies() -> None:
    costs, values = np.array([8, 16]), np.array([0.0, 1.0])
    made = Group("q", costs, values)
    costs[0] = values[0] = 99
    assert made.costs.tolist() == [8, 16]
    assert made.values.tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        made.costs[0] = 1


def test_whole_floats_and_small_integers_are_costs() -> None:
    assert Group("q", np.array([8.0, 16.0]), np.zeros(2)).costs.dtype == np.int64
    assert Group("q", np.array([8, 16], np.int32), np.array([1, 2])).values.dtype == np.float64


def test_groups_share_one_cost_array() -> None:
    costs = np.arange(1000)
    problem = Problem.from_groups([(costs, np.zeros(1000)) for _ in range(50)], 10)
    assert len({id(group.costs) for group in problem.groups}) == 1


def test_equality_looks_at_the_numbers() -> None:
    assert group() == group()
    assert hash(group()) == hash(group())
    assert group() != group("k")
    assert group() != "q"


@pytest.mark.parametrize(
    ("total", "ratio", "kept"),
    [
        (100, 0.2, 80),
        (10**18, 0.1, 9 * 10**17),
        (7, "1/3", 4),
        (7, Fraction(1, 3), 4),
        (3, 0, 3),
        (1000, " 0.15 ", 850),
        (5, np.float64(0.2), 4),
        (0, 0.5, 0),
    ],
)
def test_kept_budget_is_exact(total: int, ratio: float | str | Fraction, kept: int) -> None:
    assert kept_budget(total, ratio) == kept


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (20, "20 means 2000 %, write 0.2 for 20 %"),
        (1.0, "must be below 1"),
        ("150", "150 means 15000 %"),
        (-0.1, "cannot be negative"),
        (float("nan"), "not a number"),
        (float("inf"), "not a number"),
        (True, "ratio is a bool"),
        ("20%", "write 0.2 for 20 %"),
        ("a fifth", "not a number"),
        ("1/0", "not a number"),
        ("", "ratio '': not a number"),
        (None, "give a float"),
        (np.float32(0.2), "give a float"),
    ],
)
def test_bad_ratios_are_named(ratio: float, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        kept_budget(100, ratio)


def test_a_bad_total_is_named() -> None:
    with pytest.raises(PlanError, match="total -5"):
        kept_budget(-5, 0.2)
