"""Dominance inside groups: what is worth no more than something cheaper goes."""

import numpy as np

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form.dominance import records, undominated
from gacfx.knapsack.normal_form.lattice import flatten


def test_undominated_keeps_first_of_equals() -> None:
    pairs = [([0, 1, 2, 3, 3], [5, 5, 7, 6, 8]), ([0, 1], [9, 1])]
    flat = flatten(Problem.from_groups(pairs, 99))
    position = np.arange(7)
    kept = undominated(flat, position, flat.owner(position))
    assert kept.tolist() == [0, 2, 3, 5]  # 3, 3 was sorted to 8, 6


def test_records_looks_far_back() -> None:
    values = np.array([10.0, *np.linspace(0, 9, 50), 11.0])
    assert records(values, np.zeros(52, np.int64)).tolist() == [0, 51]


def test_records_begins_anew_in_each_group() -> None:
    values, owner = np.array([3.0, 4.0, 1.0, 2.0]), np.array([0, 0, 1, 1])
    assert records(values, owner).tolist() == [0, 1, 2, 3]
