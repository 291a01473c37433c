"""Flat form: sorting, quantum, usable budget, what does not fit."""

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form.lattice import flatten


def test_cheapest_plan_is_paid_and_the_quantum_found() -> None:
    flat = flatten(Problem.from_groups([([10, 22, 34], [0, 1, 2]), ([5, 11], [0, 1])], 33))
    assert flat.quantum == 6
    assert flat.room == 18
    assert flat.usable_budget == 33
    assert flat.cost.tolist() == [0, 12, 0, 6]  # 24 does not fit into 18
    assert flat.index(np.array([1, 3])).tolist() == [1, 1]


def test_what_the_lattice_cannot_reach_is_not_usable() -> None:
    flat = flatten(Problem.from_groups([([0, 8, 16], [0, 1, 2])] * 2, 31))
    assert (flat.room, flat.usable_budget) == (24, 24)


def test_unsorted_and_equal_costs_are_put_in_order() -> None:
    flat = flatten(Problem.from_groups([([4, 0, 4, 4, 2], [1, 0, 3, 3, 2])], 10))
    assert flat.cost.tolist() == [0, 2, 4, 4, 4]
    assert flat.origin is not None
    assert flat.origin.tolist() == [1, 4, 2, 3, 0]


def test_only_the_group_out_of_order_moves() -> None:
    flat = flatten(Problem.from_groups([([0, 1], [0, 1]), ([1, 0], [1, 0]), ([0], [5])], 9))
    assert flat.origin is not None
    assert flat.origin.tolist() == [0, 1, 1, 0, 0]
    assert flat.value.tolist() == [0, 1, 0, 1, 5]


def test_infeasible_names_the_shortfall() -> None:
    with pytest.raises(InfeasibleBudget, match="costs 7, which is 3 over the budget of 4") as info:
        flatten(Problem.from_groups([([3], [0.0]), ([4, 9], [0.0, 1.0])], 4))
    assert (info.value.needed, info.value.budget) == (7, 4)


def test_sorted_candidates_stay_where_they_are() -> None:
    flat = flatten(Problem.from_groups([([0, 1, 2], [0, 1, 2]), ([5, 6], [3, 3])], 99))
    assert flat.origin is None
    assert flat.index(np.array([2, 4])).tolist() == [2, 1]
