"""Merge small groups pairwise, so that the search has fewer levels, each with more to decide.

A merged group offers the sums of two groups' candidates, without those that lose too much together
to be in a better plan, and without those that cost no less than a better one. All pairs of groups
are merged at once, so a pass over two thousand groups takes hardly longer than a pass over twenty.
"""

from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.one_budget.items import Items
from gacfx.knapsack.order import ends_of, stable_order

_LIFT = 48  # bits; gains of one pair stay well below
_MOST_GROUPS = 2 ** (63 - _LIFT)
_FEW_SUMS = 64  # of a merged group, on average, before any is dropped: always worth it
_MOST_SUMS = 2**16  # of all groups; worth it only while groups of like costs melt together
_GROWTH = 1.0  # of all candidates in a pass, at most, for another one beyond few sums


@dataclass(frozen=True)
class Joined:
    """Where the candidates of merged groups came from."""

    first: IntArray
    second: IntArray
    """-1 for a group without a partner"""

    def undo(self, candidates: list[int]) -> list[int]:
        """The candidates before."""
        pairs = [(int(self.first[c]), int(self.second[c])) for c in candidates]
        return [candidate for pair in pairs for candidate in pair if candidate >= 0]


def merge(items: Items, price: float, distance: float) -> tuple[Items, list[Joined]]:
    """Neighbours merged until that does not pay any more, and the mergers, in order.

    Args:
        items: at least one group.
        price: the multiplier in grid steps.
        distance: the most that the candidates of a better plan lose together at ``price``.
    """
    joins: list[Joined] = []
    growth = 1.0
    while 1 < items.groups <= _MOST_GROUPS:
        half, sizes = items.groups // 2, items.sizes
        sums = int((sizes[0 : 2 * half : 2] * sizes[1 : 2 * half : 2]).sum())
        span = int(items.cost.max()) - int(items.cost.min())
        is_cheap = sums <= _FEW_SUMS * half or (sums <= _MOST_SUMS and growth <= _GROWTH)
        if not is_cheap or (2 * span + 1) * half >= 2**62:
            break
        before = len(items.cost)
        items, join = _pass(items, price, distance)
        growth = len(items.cost) / before
        joins.append(join)
    return items, joins


def _pass(items: Items, price: float, distance: float) -> tuple[Items, Joined]:
    loss = items.loss(price)
    first, second, pair = _sums(items)
    small = np.flatnonzero(loss[first] + loss[second] <= distance)
    first, second, pair = first[small], second[small], pair[small]
    cost, gain = items.cost[first] + items.cost[second], items.gain[first] + items.gain[second]
    best = _undominated(pair, cost, gain)
    first, second, pair = first[best], second[best], pair[best]
    cost, gain = cost[best], gain[best]
    if items.groups % 2:  # the last group has no partner
        alone = np.arange(items.ends[-2], items.ends[-1])
        first = np.concatenate((first, alone))
        second = np.concatenate((second, np.full(len(alone), -1)))
        pair = np.concatenate((pair, np.full(len(alone), items.groups // 2)))
        cost = np.concatenate((cost, items.cost[alone]))
        gain = np.concatenate((gain, items.gain[alone]))
    return Items(ends_of(np.bincount(pair)), cost, gain), Joined(first, second)


def _sums(items: Items) -> tuple[IntArray, IntArray, IntArray]:
    """(first, second, pair of groups) of every candidate of an even group with all of the next."""
    owner = np.repeat(np.arange(items.groups), items.sizes)
    even = np.flatnonzero((owner & 1 == 0) & (owner < items.groups - 1))
    partner = owner[even] + 1
    times = items.sizes[partner]
    begin = items.ends[partner] - np.cumsum(times) + times
    first = np.repeat(even, times)
    second = np.arange(len(first)) + np.repeat(begin, times)
    return first, second, owner[first] >> 1


def _undominated(pair: IntArray, cost: IntArray, gain: FloatArray) -> IntArray:
    """Sums that gain more than all of their pair that cost no more, as indices; by rising cost."""
    low, high = int(cost.min()), int(cost.max())
    key = pair * (high - low + 1) + (cost - low)
    order = stable_order(key)
    # Gains of later pairs are lifted above all of earlier ones, so one running maximum does.
    lifted = gain[order].astype(np.int64) + (pair[order] << _LIFT)
    record = np.ones(len(order), np.bool_)
    record[1:] = lifted[1:] > np.maximum.accumulate(lifted)[:-1]
    order = order[record]
    last = np.ones(len(order), np.bool_)
    last[:-1] = key[order[1:]] > key[order[:-1]]  # of equal costs the last record gains most
    return order[last]
