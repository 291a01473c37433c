"""The core, its bounds and its search, against full enumeration."""

import itertools
import math

import numpy as np
import pytest

from gacfx.knapsack import Problem
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.one_budget import dynamic_program
from gacfx.knapsack.one_budget.core_problem import Core, build, narrowed
from gacfx.knapsack.one_budget.dynamic_program import search
from gacfx.knapsack.one_budget.items import opened
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed
from gacfx.knapsack.one_budget.reduced_costs import Unfixed, unfixed
from gacfx.knapsack.work import Work
from tests.unit.knapsack.near_problems import best_gain, near_of


def core_of_candidates(found: Unfixed, kept: IntArray) -> Core | None:
    """Their core."""
    items = opened(found, kept)
    return build(*items, found.multiplier, found.left) if items else None


def core_of(seed: int, whole: bool = False, stretch: float = 1.0) -> tuple[Core, Unfixed]:
    found = near_of(seed, whole, stretch)
    core = core_of_candidates(found, np.arange(len(found.owner)))
    assert core is not None
    return core, found


def completions(core: Core, depth: int) -> list[tuple[int, float]]:
    """(cost, gain) of every way to decide the levels from ``depth`` on."""
    cost, gain = core.items.cost.tolist(), core.items.gain.tolist()
    levels = [range(begin, end) for begin, end in itertools.pairwise(core.ends[depth:])]
    return [
        (sum(cost[pick] for pick in picks), sum(gain[pick] for pick in picks))
        for picks in itertools.product(*levels)
    ]


@pytest.fixture(params=[1, 6])
def narrowing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """New cores on every level, and only where that pays."""
    monkeypatch.setattr(dynamic_program, "_FEW_LEVELS", request.param)


@pytest.mark.usefixtures("narrowing")
@pytest.mark.parametrize("stretch", [1.0, 0.3, 0.7, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_search_finds_and_proves_the_best(seed: int, stretch: float) -> None:
    # A poor multiplier costs time and nothing else.
    core, near = core_of(seed, stretch=stretch)
    found = search(core, near.left, 0.0, 0.0, 10**6, Work(10**9, math.inf))
    assert (found.complete, found.bound) == (True, best_gain(near, core.scale.grid.exponent))
    if found.picks:
        plan = near.base.copy()
        plan[near.owner[found.picks]] = found.picks
        gain = np.ldexp(near.value[plan] - near.value[near.base], core.scale.grid.exponent)
        assert np.rint(gain).sum() == found.bound


@pytest.mark.usefixtures("narrowing")
@pytest.mark.parametrize("seed", range(4))
def test_a_narrow_beam_still_bounds(seed: int) -> None:
    core, near = core_of(seed)
    found = search(core, near.left, 0.0, 0.0, 1, Work(10**9, math.inf))
    assert found.bound >= best_gain(near, core.scale.grid.exponent)
    spent = search(core, near.left, 0.0, 0.0, 10**6, Work(0, math.inf))
    assert not spent.complete
    assert spent.bound >= best_gain(near, core.scale.grid.exponent)


@pytest.mark.usefixtures("narrowing")
@pytest.mark.parametrize("seed", range(4))
def test_a_floor_that_is_too_high_is_refuted(seed: int) -> None:
    core, near = core_of(seed)
    floor = best_gain(near, core.scale.grid.exponent) + core.scale.grid.unit
    found = search(core, near.left, floor, 0.0, 10**6, Work(10**9, math.inf))
    assert (found.complete, found.bound, found.picks) == (True, floor, [])


def test_tails_bound_every_completion() -> None:
    core, _ = core_of(1)
    for depth in range(max(0, core.levels - 4), core.levels + 1):
        for cost, gain in completions(core, depth):
            assert (gain - core.price * cost <= core.tail[depth]).all()
            assert -cost <= core.savings[depth]


def test_the_line_of_a_state_is_the_lowest() -> None:
    core, _ = core_of(2)
    left = np.arange(-60, 60)
    line, bound = core.bound(0, left, np.zeros(len(left)))
    every = core.price[:, None] * left + core.tail[0][:, None]
    assert line.max() > line.min()
    np.testing.assert_allclose(bound, every.min(axis=0), rtol=1e-12)


def test_narrowed_keeps_what_states_can_afford() -> None:
    core, _ = core_of(3)
    at = len(core.price) // 2
    most = np.full(len(core.price), -1.0)
    most[at] = float(np.quantile(core.loss[at], 0.3))
    smaller, forced = narrowed(core, 2, most, float(core.price[at]))
    assert smaller is not None
    allowed = np.flatnonzero(core.loss[at] <= most[at])
    allowed = allowed[allowed >= core.ends[2]]
    sources = np.concatenate((smaller.items.source, core.items.source[forced]))
    assert sorted(sources.tolist()) == sorted(core.items.source[allowed].tolist())
    assert len(forced) + smaller.levels == core.levels - 2
    nothing, forced = narrowed(core, 2, np.where(most < 0, -1.0, 0.0), 0.0)
    assert nothing is None
    assert len(forced) == core.levels - 2


def test_whole_values_share_a_unit_and_lose_nothing() -> None:
    core, _ = core_of(3, whole=True)
    grid = core.scale.grid
    assert grid.rounding == 0
    assert math.ldexp(grid.unit, -grid.exponent) >= 1
    assert not (core.items.gain % grid.unit).any()


def test_widest_groups_come_first() -> None:
    core, _ = core_of(1)
    widths = np.maximum.reduceat(np.abs(core.items.cost), core.ends[:-1]).tolist()
    assert widths == sorted(widths, reverse=True)


def test_a_single_candidate_that_is_not_the_relaxed_one_must_be_taken() -> None:
    form = normal_form(Problem.from_groups([([0, 4], [0, 4]), ([0, 6], [0, 6])], 10))
    first = form.start[:-1]
    found = unfixed(form, Relaxed(1.0, first, 10, first, first))
    core = core_of_candidates(found, np.array([1, 2]))
    assert core is not None
    assert core.scale.groups == 1
    assert search(core, 10, 0.0, 0.0, 16, Work(100, math.inf)).picks == [1]
    assert core_of_candidates(found, np.array([0, 2])) is None
