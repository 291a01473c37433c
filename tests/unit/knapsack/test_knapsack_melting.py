"""Groups of one step become one group, and nothing is lost that could matter."""

import itertools

import numpy as np
import pytest

from gacfx.knapsack.arrays import run_ends
from gacfx.knapsack.one_budget.items import Items
from gacfx.knapsack.one_budget.melting import Melted, melt


def items_of(groups: list[list[tuple[int, int]]]) -> Items:
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    cost, gain = zip(*itertools.chain(*groups), strict=True)
    return Items(run_ends(owner), np.array(cost), np.array(gain, np.float64))


def concave(rng: np.random.Generator, step: int, size: int) -> list[tuple[int, int]]:
    gains = np.cumsum(np.sort(rng.integers(1, 30, size))[::-1]).tolist()
    first = int(rng.integers(-2, 1))
    return [(step * (first + n), int(gain)) for n, gain in enumerate(gains)]


def totals(items: Items) -> dict[int, float]:
    """The best gain of every total cost."""
    found = {0: 0.0}
    for begin, end in itertools.pairwise(items.ends.tolist()):
        after: dict[int, float] = {}
        for (spent, gained), pick in itertools.product(found.items(), range(begin, end)):
            cost = spent + int(items.cost[pick])
            after[cost] = max(after.get(cost, -np.inf), gained + float(items.gain[pick]))
        found = after
    return found


def alike(seed: int) -> Items:
    """Five groups of step 3, one of step 7, and one that bends upwards."""
    rng = np.random.default_rng(seed)
    groups = [concave(rng, 3, int(rng.integers(2, 5))) for _ in range(5)]
    return items_of([*groups, concave(rng, 7, 3), [(0, 0), (3, 1), (6, 9)]])


@pytest.mark.parametrize("seed", range(5))
def test_every_total_keeps_its_best_gain(seed: int) -> None:
    items = alike(seed)
    melted, _ = melt(items, price=1.0, distance=1e9)
    assert melted.groups == 3  # five became one; the other two stayed
    assert totals(melted) == totals(items)


@pytest.mark.parametrize("seed", range(5))
def test_what_loses_too_much_goes(seed: int) -> None:
    items = alike(seed)
    price, distance = 4.0, 12.0
    melted, _ = melt(items, price, distance)
    assert len(melted.cost) < len(melt(items, price, 1e9)[0].cost)
    best = max(gain - price * cost for cost, gain in totals(items).items())
    kept = totals(melted)
    for cost, gain in totals(items).items():
        if gain - price * cost >= best - distance:
            assert kept[cost] == gain


@pytest.mark.parametrize("seed", range(5))
def test_the_way_back(seed: int) -> None:
    items = alike(seed)
    melted, way = melt(items, price=1.0, distance=1e9)
    assert isinstance(way, Melted)
    for candidate in range(len(melted.cost)):
        before = way.undo([candidate])
        assert items.cost[before].sum() == melted.cost[candidate]
        assert items.gain[before].sum() == melted.gain[candidate]
        owner = np.searchsorted(items.ends, before, side="right")
        assert len(set(owner.tolist())) == len(before)


def test_few_groups_of_a_kind_stay() -> None:
    rng = np.random.default_rng(0)
    items = items_of([concave(rng, step, 3) for step in (2, 2, 3, 3, 5)])
    melted, way = melt(items, price=1.0, distance=1e9)
    assert melted.groups == 5
    assert way.undo(list(range(15))) == list(range(15))
