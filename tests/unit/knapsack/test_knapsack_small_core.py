"""The search of small cores in plain Python, against enumeration and the search it stands for."""

import math

import numpy as np
import pytest

from gacfx.knapsack.one_budget import small_core
from gacfx.knapsack.one_budget.core_dp import Found, search
from gacfx.knapsack.one_budget.core_problem import build
from gacfx.knapsack.one_budget.fixing import Near
from gacfx.knapsack.one_budget.items import Opened, opened
from gacfx.knapsack.one_budget.small_core import search_small
from gacfx.knapsack.work import Work
from tests.unit.knapsack.near_problems import best_gain, near_of

STRETCHES = [1.0, 0.3, 0.7, 1.5, 3.0]


@pytest.fixture(autouse=True)
def every_core_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_core, "_FEW_STEPS", 10**6)


def core_of(near: Near) -> Opened:
    core = opened(near, np.arange(len(near.owner)))
    assert core is not None
    return core


def found_in(near: Near, core: Opened, floor: float = 0.0, tolerance: float = 0.0) -> Found:
    found = search_small(near, core, floor, tolerance, Work(10**6, math.inf))
    assert found is not None
    return found


def gain_of(near: Near, core: Opened, picks: list[int]) -> float:
    """What a plan gains in grid steps; it must be within the budget."""
    plan = near.base.copy()
    plan[near.owner[picks]] = picks
    assert (near.cost[plan] - near.cost[near.base]).sum() <= near.left
    gain = np.ldexp(near.value[plan] - near.value[near.base], core.grid.exponent)
    return float(np.rint(gain).sum())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("seed", range(6))
def test_it_finds_and_proves_the_best(seed: int, stretch: float, whole: bool) -> None:
    # A poor multiplier costs time and nothing else.
    near = near_of(seed, whole, stretch)
    core = core_of(near)
    found = found_in(near, core)
    assert (found.complete, found.bound) == (True, best_gain(near, core.grid.exponent))
    assert gain_of(near, core, found.picks) == found.bound
    same = search(build(near, core, 0.0), near.left, 0.0, 0.0, 10**6, Work(10**9, math.inf))
    assert same.bound == found.bound


@pytest.mark.parametrize("seed", range(6))
def test_a_floor_that_is_too_high_is_refuted(seed: int) -> None:
    near = near_of(seed)
    core = core_of(near)
    best = best_gain(near, core.grid.exponent)
    refuted = found_in(near, core, floor=best)
    assert (refuted.complete, refuted.bound, refuted.picks) == (True, best, [])
    below = found_in(near, core, floor=best - core.grid.unit)
    assert (below.bound, gain_of(near, core, below.picks)) == (best, best)


@pytest.mark.parametrize("seed", range(6))
def test_with_a_tolerance_the_best_is_missed_by_no_more(seed: int) -> None:
    near = near_of(seed)
    core = core_of(near)
    best = best_gain(near, core.grid.exponent)
    tolerance = best / 4
    found = found_in(near, core, tolerance=tolerance)
    gain = gain_of(near, core, found.picks)
    assert best - tolerance <= gain <= best <= found.bound
    assert found.bound == gain + tolerance


def test_more_candidates_or_steps_are_left_to_the_other_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near = near_of(0)
    core, work = core_of(near), Work(1000, math.inf)
    monkeypatch.setattr(small_core, "_FEW_CANDIDATES", len(core.kept) - 1)
    assert search_small(near, core, 0.0, 0.0, work) is None
    monkeypatch.setattr(small_core, "_FEW_CANDIDATES", len(core.kept))
    assert search_small(near, core, 0.0, 0.0, work) is not None
    monkeypatch.setattr(small_core, "_FEW_STEPS", 20)
    before = work.steps_left
    assert search_small(near, core, 0.0, 0.0, work) is None
    assert work.steps_left == before
