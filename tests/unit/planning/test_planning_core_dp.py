"""The core, its bounds and its search, against full enumeration."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from gacfx.planning import Problem
from gacfx.planning.core_dp import Work, search
from gacfx.planning.core_problem import Core, Order, build
from gacfx.planning.fixing import Near, near
from gacfx.planning.greedy import fill
from gacfx.planning.lattice import flatten
from gacfx.planning.relaxation import Relaxed, relax


def core_of(seed: int, order: Order, whole: bool = False, stretch: float = 1.0) -> tuple[Core, int]:
    """A core of up to seven groups and what the relaxed plan leaves; any multiplier will do."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(7):
        costs = np.sort(rng.integers(0, 40, 5))
        noise = rng.integers(0, 9, 5) if whole else rng.normal(0, 2, 5)
        pairs.append((costs, np.sort(costs + noise)))
    flat = flatten(Problem.from_groups(pairs, int(sum(int(c[3]) for c, _ in pairs) * 0.7)))
    relaxed = relax(flat)
    relaxed = replace(relaxed, multiplier=relaxed.multiplier * stretch)
    core = build(flat, relaxed, near(flat, relaxed), order)
    assert core is not None
    return core, relaxed.left


def completions(core: Core, depth: int) -> list[tuple[int, float]]:
    """(cost, gain) of every way to decide the levels from ``depth`` on."""
    options = [
        list(zip(x.cost.tolist(), x.gain.tolist(), strict=True)) for x in core.levels[depth:]
    ]
    return [
        (sum(cost for cost, _ in picks), sum(gain for _, gain in picks))
        for picks in itertools.product(*options)
    ]


def best_gain(core: Core, left: int) -> float:
    return max(gain for cost, gain in completions(core, 0) if cost <= left)


@pytest.mark.parametrize("order", ["near", "wide"])
@pytest.mark.parametrize("seed", range(6))
def test_search_finds_and_proves_the_best(seed: int, order: Order) -> None:
    core, left = core_of(seed, order)
    found = search(core, left, 0.0, 0.0, 10**6, Work(10**9, math.inf))
    assert found.complete
    assert found.bound == max(0.0, best_gain(core, left))


@pytest.mark.parametrize("order", ["near", "wide"])
@pytest.mark.parametrize("stretch", [0.3, 0.7, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_poor_multiplier_costs_time_and_nothing_else(
    seed: int, stretch: float, order: Order
) -> None:
    core, left = core_of(seed, order, stretch=stretch)
    found = search(core, left, 0.0, 0.0, 10**6, Work(10**9, math.inf))
    assert (found.complete, found.bound) == (True, max(0.0, best_gain(core, left)))


@pytest.mark.parametrize("order", ["near", "wide"])
@pytest.mark.parametrize("seed", range(6))
def test_a_narrow_beam_still_bounds(seed: int, order: Order) -> None:
    core, left = core_of(seed, order)
    found = search(core, left, 0.0, 0.0, 1, Work(10**9, math.inf))
    assert found.bound >= best_gain(core, left)
    spent = search(core, left, 0.0, 0.0, 10**6, Work(0, math.inf))
    assert not spent.complete
    assert spent.bound >= best_gain(core, left)


@pytest.mark.parametrize("seed", range(4))
def test_a_floor_that_is_too_high_is_refuted(seed: int) -> None:
    core, left = core_of(seed, "wide")
    floor = best_gain(core, left) + core.unit
    found = search(core, left, floor, 0.0, 10**6, Work(10**9, math.inf))
    assert (found.complete, found.bound, found.picks) == (True, floor, {})


@pytest.mark.parametrize("order", ["near", "wide"])
def test_tails_bound_every_completion(order: Order) -> None:
    core, _ = core_of(1, order)
    for depth in range(len(core.levels) - 3, len(core.levels) + 1):
        for cost, gain in completions(core, depth):
            assert (gain - core.price * cost <= core.tail[depth]).all()
            assert -cost <= core.savings[depth]


def test_whole_values_share_a_unit_and_lose_nothing() -> None:
    core, _ = core_of(3, "wide", whole=True)
    assert core.rounding == 0
    assert math.ldexp(core.unit, -core.exponent) >= 1
    gains = np.concatenate([level.gain for level in core.levels])
    assert not (gains % core.unit).any()


def test_orders() -> None:
    wide, _ = core_of(1, "wide")
    widths = [int(np.abs(level.cost).max()) for level in wide.levels]
    assert widths == sorted(widths, reverse=True)
    close, _ = core_of(1, "near")
    assert {level.group for level in close.levels} == {level.group for level in wide.levels}


def test_fill_takes_the_most_valuable_upgrades_that_fit() -> None:
    flat = flatten(Problem.from_groups([([0, 3, 8], [0, 3, 9]), ([0, 2], [0, 1])], 10))
    everything = np.arange(5)
    all_near = Near(everything, flat.owner(everything), np.zeros(5), 0.0, 0.0)
    start = flat.start[:-1]
    assert fill(flat, start, 4, all_near).tolist() == [1, 3]
    assert fill(flat, start, 10, all_near).tolist() == [2, 4]


def test_a_single_candidate_that_is_not_the_relaxed_one_must_be_taken() -> None:
    flat = flatten(Problem.from_groups([([0, 4], [0, 4]), ([0, 6], [0, 6])], 10))
    relaxed = Relaxed(1.0, flat.start[:-1], 10)
    core = build(
        flat, relaxed, Near(np.array([1, 2]), np.array([0, 1]), np.zeros(2), 10, 0), "near"
    )
    assert core is not None
    assert [level.group for level in core.levels] == [0]
    found = search(core, 10, 0.0, 0.0, 16, Work(100, math.inf))
    assert found.picks == {0: 1}
    nobody = Near(np.array([1]), np.array([0]), np.zeros(1), 10, 0)
    assert build(flat, relaxed, nobody, "near") is None
