"""Upgrades and exchanges."""

import numpy as np
import pytest

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.one_budget.local_search import exchange, fill, first_plan
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed, relax
from gacfx.knapsack.one_budget.reduced_costs import Unfixed, unfixed


def cheapest_of(pairs: list[tuple[list[int], list[int]]], budget: int) -> Unfixed:
    """All candidates, with the cheapest plan as the relaxed one."""
    form = normal_form(Problem.from_groups(pairs, budget))
    first = form.start[:-1]
    rich = form.start[1:] - 1
    return unfixed(form, Relaxed(0.0, first, form.room[0], first, rich))


def test_fill_takes_the_most_valuable_upgrades_that_fit() -> None:
    everything = cheapest_of([([0, 3, 8], [0, 3, 9]), ([0, 2], [0, 1])], 10)
    plan, left = fill(everything, everything.base.copy(), 4)
    assert (plan.tolist(), left) == ([1, 3], 1)  # 3 first, and then nothing fits
    plan, left = fill(everything, everything.base.copy(), 10)
    assert (plan.tolist(), left) == ([2, 4], 0)


def test_an_exchange_pays_for_one_group_with_another() -> None:
    everything = cheapest_of([([0, 5], [0, 5]), ([0, 6], [0, 7])], 6)
    plan = np.array([1, 2])  # the first group took 5 of 6
    assert sorted(exchange(everything, np.arange(4), plan, left=1)) == [0, 3]
    assert exchange(everything, np.arange(4), np.array([0, 3]), left=0) == []


def test_no_exchange_takes_two_candidates_of_one_group() -> None:
    everything = cheapest_of([([0, 2, 4], [0, 5, 7])], 6)
    assert exchange(everything, np.arange(3), np.array([0]), left=6) == [2]


@pytest.mark.parametrize("seed", range(10))
def test_the_first_plan_fits_and_is_no_worse_than_the_relaxed_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(np.sort(rng.integers(0, 40, 6)), np.sort(rng.normal(size=6))) for _ in range(20)]
    form = normal_form(Problem.from_groups(pairs, 300))
    found = unfixed(form, relax(form))
    plan = first_plan(found)
    assert found.owner[plan].tolist() == list(range(len(found.group)))
    assert int((found.cost[plan] - found.cost[found.base]).sum()) <= found.left
    assert found.gain(plan) >= max(0.0, found.gain(found.better))
