"""Where runs of candidates use up the room, for concave runs and for any."""

import numpy as np
import pytest

from gacfx.knapsack.one_budget.critical_price import Runs, cross
from gacfx.knapsack.order import ends_of, stable_order


def random_runs(seed: int, concave: bool) -> Runs:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, 12)
    cost, value = [], []
    for size in sizes.tolist():
        widths = rng.integers(1, 9, size)
        slopes = rng.integers(1, 12, size)
        slopes = -np.sort(-slopes) if concave else slopes
        cost.append(np.cumsum(widths))
        value.append(np.cumsum(widths * slopes).astype(np.float64))
    return Runs(ends_of(sizes), np.concatenate(cost), np.concatenate(value))


@pytest.mark.parametrize("concave", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_the_critical_price_by_its_definition(seed: int, concave: bool) -> None:
    runs = random_runs(seed, concave)
    low, high = runs.cost[runs.ends[:-1]].sum(), runs.cost[runs.ends[1:] - 1].sum()
    room = int(np.random.default_rng(seed).integers(low, high))
    price, first, last = cross(runs, room)
    reduced = runs.value - price * runs.cost
    top = np.maximum.reduceat(reduced, runs.ends[:-1])
    np.testing.assert_allclose(reduced[first], top)
    np.testing.assert_allclose(reduced[last], top)
    assert runs.cost[first].sum() <= room < runs.cost[last].sum()


def test_cut_leaves_the_other_runs_alone() -> None:
    runs = random_runs(0, concave=True)
    begin = int(runs.ends[3])
    shorter = runs.cut(3, begin)
    assert shorter.ends[4] - shorter.ends[3] == 1
    gone = int(runs.ends[4]) - begin - 1
    assert shorter.cost[shorter.ends[4] :].tolist() == runs.cost[runs.ends[4] :].tolist()
    assert len(shorter.value) == len(runs.value) - gone


def test_runs_of_one_candidate_take_no_step() -> None:
    runs = random_runs(1, concave=True)
    for run in (11, 5, 0):
        runs = runs.cut(run, int(runs.ends[run]))
    room = int(runs.cost[runs.ends[:-1]].sum()) + 5
    _, _, rich = cross(runs, room)
    assert (rich - runs.ends[:-1])[[0, 5, 11]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("high", [3, 10**4, 2**61])
def test_stable_order_keeps_equals_in_order(high: int) -> None:
    keys = np.random.default_rng(0).integers(-high, high, 5000)
    assert stable_order(keys).tolist() == np.argsort(keys, kind="stable").tolist()
