"""Points: what is dominated, which candidate each one is, and the grid of gains."""

import pytest

from gacfx.knapsack import Problem
from gacfx.knapsack.frontier.rising import Rising, rising
from gacfx.knapsack.normal_form.lattice import flatten

Pairs = list[tuple[list[int], list[float]]]


def points_of(pairs: Pairs) -> Rising:
    return rising(flatten(Problem.from_groups(pairs, 10**9)))


def test_dominated_candidates_are_left_out() -> None:
    points = points_of([([4, 1, 3, 2, 5], [5, 2, 2, 1, 6]), ([7], [-3]), ([1, 2], [4, 4])])
    assert points.candidate.tolist() == [1, 0, 4, 0, 0]
    assert points.cost.tolist() == [0, 3, 4, 0, 0]
    assert points.start.tolist() == [0, 3, 4, 5]
    assert points.owner.tolist() == [0, 0, 0, 1, 2]
    assert points.steps.tolist() == [1, 2]
    assert points.base == 2 - 3 + 4


def test_whole_gains_come_back_exactly() -> None:
    points = points_of([([0, 1, 2], [-5, 1, 3]), ([0, 9], [0, 1000])])
    assert [points.worth(float(gain)) for gain in points.gain] == [0, 6, 8, 0, 1000]
    assert points.values(points.gain[[0, 2]].astype(float)).tolist() == [-5, 3]


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e190])
def test_the_grid_follows_the_scale(scale: float) -> None:
    points = points_of([([0, 1, 2], [0, scale, 3 * scale])] * 40)
    assert 2**58 < points.top.sum() <= 2**60


def test_nothing_to_gain() -> None:
    points = points_of([([0, 1], [2.0, 2.0]), ([5], [0.0])])
    assert points.gain.tolist() == [0, 0]
