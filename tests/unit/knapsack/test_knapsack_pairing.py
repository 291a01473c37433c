"""Groups merged in pairs, against all sums."""

import itertools

import numpy as np
import pytest

from gacfx.knapsack.one_budget import pairing
from gacfx.knapsack.one_budget.items import Items
from gacfx.knapsack.one_budget.pairing import merge
from gacfx.knapsack.order import ends_of


def random_items(seed: int, groups: int) -> Items:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, groups)
    ends = ends_of(sizes)
    cost = np.concatenate([np.sort(rng.choice(20, size, False)) for size in sizes]) - 6
    gain = np.concatenate([np.sort(rng.choice(30, size, False)) for size in sizes])
    return Items(ends, cost, gain.astype(np.float64))


def sums(items: Items) -> list[tuple[int, float]]:
    groups = [range(begin, end) for begin, end in itertools.pairwise(items.ends.tolist())]
    return [
        (int(items.cost[list(picks)].sum()), float(items.gain[list(picks)].sum()))
        for picks in itertools.product(*groups)
    ]


@pytest.mark.parametrize("groups", [2, 3, 5, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_sums_stay_and_know_their_parts(seed: int, groups: int) -> None:
    items = random_items(seed, groups)
    merged, joins = merge(items, 1.0, 1e9)
    assert merged.groups == 1
    every = sums(items)
    best = [
        (cost, gain)
        for cost, gain in set(every)
        if not any((c <= cost and g >= gain and (c, g) != (cost, gain)) for c, g in every)
    ]
    assert list(zip(merged.cost.tolist(), merged.gain.tolist(), strict=True)) == sorted(best)
    for candidate in range(len(merged.cost)):
        parts = [candidate]
        for join in reversed(joins):
            parts = join.undo(parts)
        assert len(parts) == groups
        assert items.cost[parts].sum() == merged.cost[candidate]
        assert items.gain[parts].sum() == merged.gain[candidate]


@pytest.mark.parametrize("seed", range(4))
def test_what_loses_too_much_together_goes(seed: int) -> None:
    items = random_items(seed, 6)
    price, distance = 1.3, 9.0
    merged, _ = merge(items, price, distance)
    reduced = merged.gain - price * merged.cost
    whole, _ = merge(items, price, 1e9)
    assert reduced.min() >= reduced.max() - distance
    assert len(merged.cost) < len(whole.cost)
    keep = whole.gain - price * whole.cost >= reduced.max() - distance
    assert merged.cost.tolist() == whole.cost[keep].tolist()


def test_large_groups_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "_FEW_SUMS", 1)
    monkeypatch.setattr(pairing, "_GROWTH", 0.0)
    items = random_items(0, 6)
    merged, joins = merge(items, 1.0, 1e9)
    assert merged is items
    assert joins == []


def test_costs_too_large_to_stand_side_by_side_are_left_alone() -> None:
    items = Items(np.array([0, 2, 4]), np.array([-(2**61), 2**61, 0, 1]), np.arange(4.0))
    assert merge(items, 0.0, 1e9) == (items, [])
