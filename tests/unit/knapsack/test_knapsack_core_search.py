"""The proof of a plan: by search of the core, or by the relaxation."""

import math

import numpy as np

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.one_budget.core_search import CoreSearch
from gacfx.knapsack.one_budget.items import opened
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed, relax
from gacfx.knapsack.one_budget.reduced_costs import unfixed
from gacfx.knapsack.work import Work


def proof_of(problem: Problem, steps: int = 10**8) -> CoreSearch:
    form = normal_form(problem)
    found = unfixed(form, relax(form))
    return CoreSearch(found, form.groups, 0.0, Work(steps, math.inf), found.base, upper=found.slack)


def large(seed: int) -> Problem:
    """Curves with a jump to dense, and hundreds of candidates near the bound."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, 150)
    pairs = []
    for _ in range(40):
        step = int(rng.choice([5, 8, 18]))
        tail = rng.lognormal() * (1 - (rank / 300) ** 0.3)
        pairs.append((np.append(step * rank, step * 150), np.append(-step * tail, 0.0)))
    return Problem.from_groups(pairs, 40 * 800)


def test_a_search_ends_in_a_proof() -> None:
    found = proof_of(large(0))
    found.run()
    assert found.proven
    assert found.gain <= found.upper
    plan, base = found.plan, found.near.base
    assert int((found.near.cost[plan] - found.near.cost[base]).sum()) <= found.near.left
    assert found.gain > found.near.gain(base)
    assert found.core_candidates > 0


def test_without_work_nothing_is_claimed() -> None:
    found = proof_of(large(0), steps=0)
    found.run()
    assert not found.proven
    assert found.upper == found.near.slack


def test_a_plan_that_meets_the_bound_needs_no_search() -> None:
    found = proof_of(Problem.from_groups([([0, 4], [0, 4]), ([0, 6], [0, 6])], 6))
    found.run()
    assert found.proven
    assert (found.rounding, found.work.steps_left) == (0.0, 10**8)


def test_a_worse_plan_is_not_taken() -> None:
    found = proof_of(Problem.from_groups([([0, 4], [0, 4]), ([0, 7], [0, 6])], 7))
    before = found.plan.tolist()
    found._take([0, 2])
    assert found.plan.tolist() == before
    found._take([0, 3])
    assert found.gain == 2


def test_a_floor_far_above_a_tiny_core_does_not_overflow() -> None:
    form = normal_form(Problem.from_groups([([0, 1], [0, 2.0**-997])], 1))
    first = form.start[:-1]
    core = opened(unfixed(form, Relaxed(0.0, first, 1, first, first + 1)), np.arange(2))
    assert core is not None
    items, grid = core
    assert grid.floor(2.0**-997) == items.gain.max()
    assert 0 <= 2.0**60 - grid.floor(1e150) < grid.unit
