"""Losses, what they fix, and dominance."""

import numpy as np
import pytest

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form.lattice import flatten
from gacfx.knapsack.one_budget.fixing import near
from gacfx.knapsack.one_budget.relaxation import Relaxed, relax


def test_losses_and_slack_add_up_to_the_bound() -> None:
    flat = flatten(Problem.from_groups([([0, 4, 9], [0, 8, 10]), ([0, 5], [0, 6])], 10))
    relaxed = relax(flat)
    found = near(flat, relaxed)
    reduced = flat.value - relaxed.multiplier * flat.weight
    bound = relaxed.multiplier * flat.room + np.maximum.reduceat(reduced, flat.start[:-1]).sum()
    assert np.isclose(found.slack, bound - flat.value[relaxed.chosen].sum())
    assert (found.loss <= found.slack + found.margin).all()
    chosen = found.column[found.base] + flat.start[found.group]
    assert chosen.tolist() == relaxed.chosen[found.group].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_out_is_in_no_better_plan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(0, 40, 6), rng.normal(size=6)) for _ in range(9)]
    flat = flatten(Problem.from_groups(pairs, 150))
    relaxed = relax(flat)
    found = near(flat, relaxed)
    reduced = flat.value - relaxed.multiplier * flat.weight
    top = np.maximum.reduceat(reduced, flat.start[:-1])
    better = found.slack - found.gain(found.better)
    keep = flat.spread(top) - reduced <= better
    listed = np.zeros(len(flat.value), np.bool_)
    listed[flat.start[found.group[found.owner]] + found.column] = True
    closed = np.setdiff1d(np.arange(flat.groups), found.group)
    listed[relaxed.chosen[closed]] = True
    assert not (keep & ~listed).any()


def test_a_plan_at_a_poor_multiplier_is_listed_all_the_same() -> None:
    flat = flatten(Problem.from_groups([([0, 1, 2, 3], [0, 9, 11, 12])], 2))
    one = np.array([1])
    found = near(flat, Relaxed(3.0, one, 1, one, one))
    assert found.column[found.within(1.0)].tolist() == [1, 2]
    assert found.slack == pytest.approx(3)


def test_cheapest_equal_goes_back_to_what_is_worth_as_much() -> None:
    flat = flatten(Problem.from_groups([([0, 1, 2, 3], [0, 5, 5, 5])], 9))
    last = np.array([3])
    found = near(flat, Relaxed(0.0, last, 6, last, last))
    assert found.column[found.cheapest_equal(found.base)].tolist() == [1]
