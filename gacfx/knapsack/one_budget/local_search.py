"""The first plan worth having: upgrades while the budget lasts, then exchanges.

An exchange changes two groups at once, for example one rank down here to pay for one up there.
Among thousands of candidates near the bound there is nearly always a pair that uses up the budget
to the last unit at next to no loss, which leaves little for the search to decide.
"""

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.one_budget.reduced_costs import Unfixed
from gacfx.knapsack.order import stable_order

_UPGRADES = 64
_EXCHANGES = 32
_WORTH_IT = 0.99  # go on while the distance from the bound shrinks at least to this share


def first_plan(near: Unfixed) -> IntArray:
    """[open] indices of candidates: the plan of the relaxation after upgrades and exchanges."""
    left = near.left - int((near.cost[near.better] - near.cost[near.base]).sum())
    plan, left = fill(near, near.better.copy(), left)
    distance = near.slack - near.gain(plan)
    for _ in range(_EXCHANGES):
        picks = exchange(near, near.within(distance), plan, left)
        for pick in picks:
            old, plan[near.owner[pick]] = plan[near.owner[pick]], pick
            left -= int(near.cost[pick] - near.cost[old])
        before, distance = distance, near.slack - near.gain(plan)
        if not picks or distance > _WORTH_IT * before:
            break
    return plan


def fill(near: Unfixed, plan: IntArray, left: int) -> tuple[IntArray, int]:
    """``plan`` after the most valuable upgrades of single groups that fit, and what they leave."""
    cost, value, owner = near.cost, near.value, near.owner
    fits = np.arange(len(cost))
    for _ in range(_UPGRADES):
        base = plan[owner[fits]]
        extra, gain = cost[fits] - cost[base], value[fits] - value[base]
        # What does not fit now will not fit later: an upgrade only uses up what is left.
        good = np.flatnonzero((extra <= left) & (gain > 0))
        if not len(good):
            break
        best = good[np.argmax(gain[good])]
        left -= int(extra[best])
        plan[owner[fits[best]]] = fits[best]
        fits = fits[good]
    return plan, left


def exchange(near: Unfixed, among: IntArray, plan: IntArray, left: int) -> list[int]:
    """The one or two candidates that gain most over ``plan`` and fit into ``left``; maybe none."""
    among = among[among != plan[near.owner[among]]]
    if not len(among):
        return []
    extra = near.cost[among] - near.cost[plan[near.owner[among]]]
    order = stable_order(extra)
    among, extra = among[order], extra[order]
    owner = near.owner[among]
    gain = near.value[among] - near.value[plan[owner]]
    # The partner of a move is the best of those that fit beside it, a prefix by rising cost.
    fits = np.searchsorted(extra, left - extra, side="right") - 1
    partner = _best_so_far(gain)[fits]
    together = np.where((fits < 0) | (owner == owner[partner]), 0.0, gain + gain[partner])
    alone = np.where(extra <= left, gain, 0.0)
    pair, single = int(together.argmax()), int(alone.argmax())
    if max(together[pair], alone[single]) <= 0:
        return []
    if alone[single] >= together[pair]:
        return [int(among[single])]
    return [int(among[pair]), int(among[partner[pair]])]


def _best_so_far(gain: FloatArray) -> IntArray:
    """[n] where the largest of ``gain[: i + 1]`` stands, for every i."""
    most = np.maximum.accumulate(gain)
    record = np.zeros(len(gain), np.int64)
    new = np.flatnonzero(most[1:] > most[:-1]) + 1
    record[new] = new
    return np.maximum.accumulate(record)
