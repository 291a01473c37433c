"""Hulls of all groups at once against the definition, point by point."""

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gacfx.knapsack import Problem
from gacfx.knapsack.frontier.hull import Hulls, hulls
from gacfx.knapsack.normal_form import normal_form


def points_of(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> Hulls:
    return hulls(normal_form(Problem.from_groups(pairs, 2**61)))


def below_a_chord(cost: list[int], gain: list[int], point: int) -> bool:
    """Some chord from a cheaper to a richer point passes above, exactly."""
    return any(
        Fraction(gain[right] - gain[left], cost[right] - cost[left]) * (cost[point] - cost[left])
        > gain[point] - gain[left]
        for left, right in itertools.product(range(point), range(point + 1, len(cost)))
    )


def assert_hulls(points: Hulls) -> None:
    rate = points.rate
    for first, last in itertools.pairwise(points.form.start.tolist()):
        cost, gain = points.form.cost[0, first:last].tolist(), points.gain[first:last].tolist()
        for point in range(1, last - first):
            assert (rate[first + point] == -1) == below_a_chord(cost, gain, point)
        entered = rate[first:last][rate[first:last] >= 0]
        assert entered[0] == np.inf
        assert (np.diff(entered) <= 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_points_below_a_chord_are_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for kind in range(40):
        count = int(rng.integers(1, 30))
        costs = np.sort(rng.choice(400, count, replace=False))
        noise = rng.integers(0, [1, 8, 300][kind % 3] + 1, count)  # 1: many points on one chord
        pairs.append((costs, (costs // 2 + noise).astype(float)))
    assert_hulls(points_of(pairs))


def test_rates_are_gain_per_cost() -> None:
    points = points_of([(np.array([10, 20, 30, 35]), np.array([0.0, 4.0, 6.0, 16.0]))])
    rate = np.ldexp(points.rate, -points.exponent)
    # 4 per 10 would be more than the 0.4 to the second, less than the 0.64 to the last: skipped.
    assert rate.tolist()[1:3] == [-np.ldexp(1.0, -points.exponent)] * 2
    assert rate[3] == 16 / 25


@pytest.mark.parametrize("slope", [0.1, 1 / 3, 1e-7])
def test_straight_curves_keep_all_candidates_in_spite_of_rounding(slope: float) -> None:
    costs = 7 * np.arange(1, 300)
    values = slope * costs
    points = points_of([(costs, values), (costs, values - values[-1]), (costs, 1e-5 * values)])
    rate = points.rate
    assert (rate >= 0).all()
    for first, last in itertools.pairwise(points.form.start.tolist()):
        assert (np.diff(rate[first:last]) <= 0).all()


def test_a_jump_at_the_end_cuts_deep() -> None:
    # The tangent from the dense weight: the points behind it go, one by one or all at once.
    ranks = np.arange(1, 2000)
    costs, values = np.append(ranks, 2000), np.append(-1 + (ranks / 3000) ** 0.4, 0.0)
    points = points_of([(costs, values)])
    kept = np.flatnonzero(points.rate >= 0)
    slopes = (values[-1] - values[:-1]) / (2000 - costs[:-1])
    assert kept[-2] == np.argmin(slopes)
    assert kept[:-1].tolist() == list(range(kept[-2] + 1))


def test_exponential_curves_end_quickly() -> None:
    values = 1e200 * 0.7 ** np.arange(600)[::-1]
    rate = points_of([(np.arange(600), values)]).rate
    assert (rate >= 0).sum() < 600  # convex: all of them lie on the one chord or below it
    concave = points_of([(np.arange(600), -(0.7 ** np.arange(600)))]).rate
    assert (concave[:100] > 0).all()


def test_groups_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(3)
    pairs = [(np.sort(rng.choice(99, 9, replace=False)), rng.normal(size=9)) for _ in range(30)]
    together = points_of(pairs)
    rates = together.rate
    for number, pair in enumerate(pairs):
        alone = points_of([pair])
        found = rates[together.form.start[number] : together.form.start[number + 1]] >= 0
        assert found.tolist() == (alone.rate >= 0).tolist()


def test_rates_keep_their_order_where_rounding_would_turn_it() -> None:
    # The middle of the hull is parallel to the first chord, so that slopes differ by dust only.
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(300):
        side, middle = np.full(4, int(rng.integers(1, 1000))), rng.integers(1, 1000, 4)
        width = np.concatenate([side, middle, side])
        slope = 4 * rng.random() + np.repeat([1, 0, -1], 4) * rng.random()
        values = np.append(0, np.cumsum(width * np.abs(slope)))
        values[1] *= 0.999  # a notch, without which the group would need no chords
        pairs.append((np.append(0, np.cumsum(width)), values))
    points = points_of(pairs)
    rate = points.rate
    for first, last in itertools.pairwise(points.form.start.tolist()):
        entered = rate[first:last][rate[first:last] >= 0]
        assert (np.diff(entered) <= 0).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e190])
def test_the_grid_follows_the_scale(scale: float) -> None:
    found = points_of([([0, 1, 2], [0, scale, 3 * scale])] * 40)
    assert 2**58 < found.gain[found.form.start[1:] - 1].sum() <= 2**60


def test_whole_gains_come_back_exactly() -> None:
    found = points_of([([0, 1, 2], [-5, 1, 3]), ([0, 9], [0, 1000])])
    assert np.ldexp(found.gain.astype(float), -found.exponent).tolist() == [0, 6, 8, 0, 1000]
    assert found.base == -5


def test_nothing_to_gain() -> None:
    assert points_of([([0, 1], [2.0, 2.0]), ([5], [0.0])]).gain.tolist() == [0, 0]
