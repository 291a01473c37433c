"""Melt groups of one step into one: thousands of equal experts become a single level of the search.

Where the candidates of a group cost a constant step more than each other, and gain ever less, the
best way to spend k steps on many such groups together is to take the k steps that gain most. So all
their steps, sorted, are a group again, and nothing is lost. What loses too much to be in a better
plan is dropped at both ends.
"""

from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.one_budget.items import Items
from gacfx.knapsack.order import ends_of

_FEW_GROUPS = 4  # fewer are merged as fast in pairs


@dataclass(frozen=True)
class Pool:
    """Groups that were melted into one."""

    base: IntArray
    """[groups] their first candidates, before"""
    owner: IntArray
    """[steps] whose step it is, best first; indices into ``base``"""

    def undo(self, steps: int) -> list[int]:
        """The candidates before, when the best ``steps`` steps are taken."""
        counts = np.bincount(self.owner[:steps], minlength=len(self.base))
        found: list[int] = (self.base + counts).tolist()
        return found


@dataclass(frozen=True)
class Melted:
    """Where candidates came from: those of all pools, then those of groups that stayed."""

    pools: tuple[Pool, ...]
    pool: IntArray
    """[candidates of pools]"""
    steps: IntArray
    """[candidates of pools] taken by each"""
    stayed: IntArray
    """[other candidates] as they were numbered before"""

    def undo(self, candidates: list[int]) -> list[int]:
        """The candidates before."""
        found = []
        for candidate in candidates:
            if candidate < len(self.pool):
                found += self.pools[self.pool[candidate]].undo(int(self.steps[candidate]))
            else:
                found.append(int(self.stayed[candidate - len(self.pool)]))
        return found


def melt(items: Items, price: float, distance: float) -> tuple[Items, Melted]:
    """The groups after melting.

    Args:
        items: groups, with neither cost nor gain falling inside one.
        price: the multiplier in grid steps.
        distance: the most that the candidates of a better plan lose together at ``price``.
    """
    step = _even_steps(items)
    kinds, kind, counts = np.unique(step, return_inverse=True, return_counts=True)
    is_pool = (counts >= _FEW_GROUPS) & (kinds > 0)
    pools, costs, gains, steps = [], [], [], []
    for number in np.flatnonzero(is_pool).tolist():
        members = np.flatnonzero(kind == number)
        pool, cost, gain = _pooled(items, members, int(kinds[number]))
        reduced = gain - price * cost
        kept = np.flatnonzero(reduced >= reduced.max() - distance)
        pools.append(pool)
        steps.append(kept)
        costs.append(cost[kept])
        gains.append(gain[kept])
    stayed = np.flatnonzero(np.repeat(~is_pool[kind], items.sizes))
    sizes = np.array([len(kept) for kept in steps], np.int64)
    ends = ends_of(np.concatenate((sizes, items.sizes[~is_pool[kind]])))
    melted = Melted(
        tuple(pools),
        np.repeat(np.arange(len(pools)), sizes),
        np.concatenate([*steps, np.zeros(0, np.int64)]),
        stayed,
    )
    cost = np.concatenate([*costs, items.cost[stayed]])
    gain = np.concatenate([*gains, items.gain[stayed]])
    return Items(ends, cost, gain), melted


def _even_steps(items: Items) -> IntArray:
    """[groups] the step between candidates where it is the same and gains ever less, else 0."""
    owner = np.repeat(np.arange(items.groups), items.sizes)
    begin = np.flatnonzero(owner[1:] == owner[:-1])
    group = owner[begin]
    width = items.cost[begin + 1] - items.cost[begin]
    gain = items.gain[begin + 1] - items.gain[begin]
    step = np.zeros(items.groups, np.int64)
    step[group[::-1]] = width[::-1]  # of each group the first one stays
    step[group[width != step[group]]] = 0
    step[group[1:][(gain[1:] > gain[:-1]) & (group[1:] == group[:-1])]] = 0
    return step


def _pooled(items: Items, members: IntArray, step: int) -> tuple[Pool, IntArray, FloatArray]:
    """One group instead of ``members``: the pool, and cost and gain after 0, 1, 2, ... steps."""
    base = items.ends[members]
    sizes = items.sizes[members] - 1
    owner = np.repeat(np.arange(len(members)), sizes)
    place = np.repeat(base - np.cumsum(sizes) + sizes, sizes) + np.arange(len(owner))
    gain = items.gain[place + 1] - items.gain[place]
    order = np.argsort(-gain, kind="stable")
    cost = int(items.cost[base].sum()) + step * np.arange(len(owner) + 1)
    total = np.zeros(len(owner) + 1)
    np.cumsum(gain[order], out=total[1:])
    return Pool(base, owner[order]), cost, float(items.gain[base].sum()) + total
