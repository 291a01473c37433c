"""Losses, what they fix, and dominance."""

import numpy as np

from gacfx.planning import Problem
from gacfx.planning.fixing import near, undominated
from gacfx.planning.lattice import flatten
from gacfx.planning.relaxation import Relaxed, relax


def test_losses_and_slack_add_up_to_the_bound() -> None:
    flat = flatten(Problem.from_groups([([0, 4, 9], [0, 8, 10]), ([0, 5], [0, 6])], 10))
    relaxed = relax(flat)
    found = near(flat, relaxed)
    reduced = flat.value - relaxed.multiplier * flat.weight
    bound = relaxed.multiplier * flat.room + np.maximum.reduceat(reduced, flat.start[:-1]).sum()
    assert np.isclose(found.slack, bound - flat.value[relaxed.chosen].sum())
    assert set(relaxed.chosen) <= set(found.position.tolist())
    assert (found.loss <= found.slack + found.margin).all()


def test_within_keeps_the_small_losses() -> None:
    flat = flatten(Problem.from_groups([([0, 1, 2, 3], [0, 9, 11, 12])], 2))
    found = near(flat, Relaxed(3.0, np.array([1]), 1))
    assert found.within(1.0).position.tolist() == [1, 2]


def test_undominated_keeps_first_of_equals() -> None:
    pairs = [([0, 1, 2, 3, 3], [5, 5, 7, 6, 8]), ([0, 1], [9, 1])]
    flat = flatten(Problem.from_groups(pairs, 99))
    position = np.arange(7)
    kept = undominated(flat, position, flat.owner(position))
    assert kept.tolist() == [0, 2, 3, 5]  # 3, 3 was sorted to 8, 6


def test_undominated_looks_far_back() -> None:
    values = [10.0, *np.linspace(0, 9, 50), 11.0]
    flat = flatten(Problem.from_groups([(np.arange(52), values)], 99))
    assert undominated(flat, np.arange(52), np.zeros(52, np.int64)).tolist() == [0, 51]
