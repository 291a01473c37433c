"""Losses, what they fix, and dominance."""

import numpy as np
import pytest

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed, relax
from gacfx.knapsack.one_budget.reduced_costs import unfixed


def test_losses_and_slack_add_up_to_the_bound() -> None:
    form = normal_form(Problem.from_groups([([0, 4, 9], [0, 8, 10]), ([0, 5], [0, 6])], 10))
    relaxed = relax(form)
    found = unfixed(form, relaxed)
    reduced = form.value - relaxed.multiplier * form.cost[0]
    bound = relaxed.multiplier * form.room[0] + np.maximum.reduceat(reduced, form.start[:-1]).sum()
    assert np.isclose(found.slack, bound - form.value[relaxed.chosen].sum())
    assert (found.loss <= found.slack + found.margin).all()
    assert found.position[found.base].tolist() == relaxed.chosen[found.group].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_out_is_in_no_better_plan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(0, 40, 6), rng.normal(size=6)) for _ in range(9)]
    form = normal_form(Problem.from_groups(pairs, 150))
    relaxed = relax(form)
    found = unfixed(form, relaxed)
    reduced = form.value - relaxed.multiplier * form.cost[0]
    top = np.maximum.reduceat(reduced, form.start[:-1])
    better = found.slack - found.gain(found.better)
    keep = form.spread(top) - reduced <= better
    listed = np.zeros(len(form.value), np.bool_)
    listed[found.position] = True
    closed = np.setdiff1d(np.arange(form.groups), found.group)
    listed[relaxed.chosen[closed]] = True
    assert not (keep & ~listed).any()


def test_a_plan_at_a_poor_multiplier_is_listed_all_the_same() -> None:
    form = normal_form(Problem.from_groups([([0, 1, 2, 3], [0, 9, 11, 12])], 2))
    one = np.array([1])
    found = unfixed(form, Relaxed(3.0, one, 1, one, one))
    assert found.position[found.within(1.0)].tolist() == [1, 2]
    assert found.slack == pytest.approx(3)
