"""All plans near the dual bound, from two halves: each group's candidates are joined to two lists.

A plan at distance d from the Lagrangian bound takes candidates that lose at most d together. Half
of the groups have few such choices, in a narrow problem some thousand. So groups are joined in
pairs until two lists are left. An entry of the one then needs an entry of the other that fills the
rooms up to what is left of d, which a search among sorted costs finds. The idea is Horowitz and
Sahni's (JACM 21, 1974), with the loss at the dual prices to keep the halves short.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.grid import TOP
from gacfx.knapsack.one_budget.pairing import Joined
from gacfx.knapsack.order import ends_of, stable_order
from gacfx.knapsack.two_budgets.items import TwoCore
from gacfx.knapsack.two_budgets.lagrange import Price
from gacfx.knapsack.two_budgets.lists import Cuts, Lists, halved
from gacfx.knapsack.two_budgets.planes import prices_around
from gacfx.knapsack.work import Work

_BEYOND = 1.6  # times the limit: pairs so far from the bound may be good plans, too
_PAIRS = 4  # of halves are looked at in the time of one entry
_WIDEST = 2.0**61


@dataclass(frozen=True)
class Meeting:
    """What was found, and whether everything was looked at."""

    complete: bool
    """False: there was too much to look at, or no time, so there may be other plans"""
    looked_at: int
    """Entries and pairs of halves: a measure of the time it took"""
    gain: float = -math.inf
    """Of the best plan, in grid steps above the chosen one"""
    picks: dict[int, int] | None = None
    """group -> position of that plan; None if there is none"""


def meet(
    core: TwoCore,
    order: IntArray,
    price: Price,
    left: tuple[int, int],
    *,
    need: float,
    limit: float,
    most: int,
    work: Work,
) -> Meeting:
    """The best of all plans that gain at least ``need``, or else any good one.

    Args:
        core: the open groups, with all candidates of such plans, and none beyond ``limit``.
        order: [levels] like groups beside each other, so that many entries cost the same.
        price: the dual's, in grid steps per unit of cost.
        left: what the chosen plan leaves of both rooms.
        need: grid steps.
        limit: grid steps that such plans lose at most, and the dust of adding them up.
        most: entries of all lists at a time.
        work: only its end is looked at.
    """
    if not core.levels:
        fits = min(left) >= 0 >= need
        return Meeting(True, 0, 0.0, {}) if fits else Meeting(True, 0)
    prices = np.array(prices_around(core, price))
    lists, source = _first_lists(core, order, prices)
    cuts = Cuts(prices, _spare(core, lists, prices, left, need))
    joins: list[Joined] = []
    looked_at = 0
    while lists.count > 2:
        step = None if work.spent() else halved(lists, limit, cuts, most)
        if step is None:
            return Meeting(False, looked_at)
        lists, joined, count = step
        joins.append(joined)
        looked_at += count
        if not lists.sizes.all():
            return Meeting(True, looked_at)
    entries, count = _best_pair(lists, left, price, _BEYOND * limit, _PAIRS * most)
    looked_at += count // _PAIRS
    if not entries:
        return Meeting(count <= _PAIRS * most, looked_at)
    gain = float(lists.gain[entries].sum())
    for joined in reversed(joins):
        entries = joined.undo(entries)
    taken = source[entries]
    level = np.searchsorted(core.ends, taken, side="right") - 1
    picks = dict(zip(core.group[level].tolist(), core.position[taken].tolist(), strict=True))
    return Meeting(True, looked_at, gain, picks)


def _first_lists(core: TwoCore, order: IntArray, prices: FloatArray) -> tuple[Lists, IntArray]:
    """A list per group, and the candidates of the core behind its entries."""
    sizes = (core.ends[1:] - core.ends[:-1])[order]
    ends = ends_of(sizes)
    source = np.repeat(core.ends[order] - ends[:-1], sizes) + np.arange(ends[-1])
    source = source[np.lexsort((core.loss[source], np.repeat(np.arange(len(order)), sizes)))]
    cost, gain = core.cost[:, source], core.gain[source]
    top = np.maximum.reduceat(gain - prices @ cost, ends[:-1], axis=1)
    return Lists(ends, cost, gain, core.loss[source], top), source


def _spare(
    core: TwoCore, lists: Lists, prices: FloatArray, left: tuple[int, int], need: float
) -> FloatArray:
    """[prices] the most that a plan of gain ``need`` loses at each."""
    reach = np.maximum(np.maximum(core.savings[:, 0], core.spending[:, 0]), np.abs(left))
    dust = (TOP + prices @ reach) * (core.levels + 8.0) * 2.0**-50
    spare: FloatArray = prices @ np.array(left) + lists.top.sum(axis=1) - need + dust
    return spare


def _best_pair(
    lists: Lists, left: tuple[int, int], price: Price, limit: float, most: int
) -> tuple[list[int], int]:
    """The best pair of entries within both rooms, and how many were looked at, or too many.

    Pairs that lose more than ``limit`` with what they leave may be missed.
    """
    if lists.count == 1:
        found = np.flatnonzero((lists.cost <= np.array(left)[:, None]).all(axis=0))
        return found[lists.gain[found].argmax() :][:1].tolist() if len(found) else [], 0
    half, other = slice(0, lists.ends[1]), slice(lists.ends[1], None)
    spare = limit - lists.loss[half]
    windows = [
        _window(lists.cost[axis, half], lists.cost[axis, other], left[axis], spare, price[axis])
        for axis in (0, 1)
    ]
    order, begin, times = min(windows, key=lambda window: int(window[2].sum()))
    total = int(times.sum())
    if total > most:
        return [], total
    first = np.repeat(np.arange(lists.ends[1]), times)
    place = np.arange(total) + np.repeat(begin - np.cumsum(times) + times, times)
    second = lists.ends[1] + order[place]
    spent = lists.cost[:, first]
    spent += lists.cost[:, second]
    good = np.flatnonzero((spent <= np.array(left)[:, None]).all(axis=0))
    if not len(good):
        return [], total
    best = good[(lists.gain[first[good]] + lists.gain[second[good]]).argmax()]
    return [int(first[best]), int(second[best])], total


def _window(
    cost: IntArray, others: IntArray, left: int, spare: FloatArray, price: float
) -> tuple[IntArray, IntArray, IntArray]:
    """(order of ``others`` by cost, [cost] begin and number of those that fill up ``left``).

    ``spare``: [cost] worth, at ``price``, of what may be left over.
    """
    order = stable_order(others)
    ranked = others[order]
    room = left - cost
    end = np.searchsorted(ranked, room, side="right")
    begin = np.zeros(len(cost), np.int64)
    if price > 0:  # one unit more than allowed does no harm; one less might lose the best plan
        over = np.minimum(spare / price * (1 + 2.0**-40) + 1, _WIDEST).astype(np.int64) + 1
        begin = np.searchsorted(ranked, room - over, side="left")
    return order, begin, np.maximum(end - begin, 0)
