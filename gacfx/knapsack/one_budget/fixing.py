"""Reduced-cost fixing: which candidates can still be part of a better plan.

At a multiplier every candidate has a *loss*: how much worse its ``value - multiplier * cost`` is
than the best of its group. The losses of a plan, plus the multiplier times what it leaves unspent,
add up to its distance from the Lagrangian bound. So a candidate that alone loses more than the
distance of a known plan is in no better plan.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form.lattice import Flat
from gacfx.knapsack.one_budget.relaxation import Relaxed
from gacfx.knapsack.order import ends_of, stable_order

_LAST = 2.0**-1074


@dataclass(frozen=True)
class Near:
    """The candidates near the Lagrangian bound, where a group has more than the relaxed plan's."""

    group: IntArray
    """[open] numbers of the groups with something to decide, ascending"""
    ends: IntArray
    """[open + 1] where their candidates begin, and the end"""
    owner: IntArray
    """[candidates] index into ``group``"""
    column: IntArray
    """[candidates] place in the group, ascending"""
    cost: IntArray
    value: FloatArray
    loss: FloatArray
    base: IntArray
    """[open] the candidates of the relaxed plan, as indices"""
    better: IntArray
    """[open] those of the better plan that the relaxation found, or ``base`` again"""
    multiplier: float
    left: int
    """What the relaxed plan leaves of the room"""
    slack: float
    """The Lagrangian bound minus the value of the relaxed plan, rounded up"""
    margin: float
    """More than what float64 can get wrong in one loss, so a loss can be as far below 0"""

    def within(self, distance: float) -> IntArray:
        """The candidates that lose at most ``distance``, and a margin, as indices."""
        return np.flatnonzero(self.loss <= distance + self.margin)

    def cheapest_equal(self, plan: IntArray) -> IntArray:
        """[open] the first candidates that are worth as much as those of ``plan``.

        No need to look further: what is worth as much and costs less also loses less.
        """
        hits = np.flatnonzero(self.value >= self.value[plan][self.owner])
        return hits[np.searchsorted(hits, self.ends[:-1])]

    def gain(self, plan: IntArray) -> float:
        """How much more than the relaxed plan a plan is worth; ``plan``: [open] indices."""
        return math.fsum((self.value[plan] - self.value[self.base]).tolist())


def near(flat: Flat, relaxed: Relaxed) -> Near:
    """The candidates that can be in a plan better than the best one of ``relaxed``."""
    price, margin = relaxed.multiplier, _margin(flat, relaxed.multiplier)
    start = flat.start[:-1]
    cost, value = flat.at(relaxed.best - start)
    top = value - price * cost.astype(np.float64)
    plans = [relaxed.chosen - start]
    if relaxed.better is not relaxed.chosen:
        plans.append(relaxed.better - start)
    distances = [_distance(flat, price, top, plan) + flat.groups * margin for plan in plans]
    group, column, cost, value = _found(flat, price, top - (distances[-1] + margin), plans)
    count = np.bincount(group, minlength=flat.groups)
    keep = np.flatnonzero(count[group] > 1)
    keep = keep[stable_order(group[keep])]
    group, column, cost, value = group[keep], column[keep], cost[keep], value[keep]
    is_open = np.flatnonzero(count > 1)
    return Near(
        group=is_open,
        ends=ends_of(count[is_open]),
        owner=np.repeat(np.arange(len(is_open)), count[is_open]),
        column=column,
        cost=cost,
        value=value,
        loss=top[group] - (value - price * cost.astype(np.float64)),
        base=np.flatnonzero(column == plans[0][group]),
        better=np.flatnonzero(column == plans[-1][group]),
        multiplier=price,
        left=relaxed.left,
        slack=distances[0],
        margin=margin,
    )


def _distance(flat: Flat, price: float, top: FloatArray, column: IntArray) -> float:
    """How far a plan is below the Lagrangian bound; ``top``: [groups] the best at this price."""
    cost, value = flat.at(column)
    off = float((top - (value - price * cost.astype(np.float64))).sum())
    return price * (flat.room - int(cost.sum())) + off


def _margin(flat: Flat, price: float) -> float:
    size = max(max(table.value.max(), -table.value.min()) for table in flat.tables)
    weight = max(table.weight[:, -1].max() for table in flat.tables)
    # A difference of two products and sums of this size is off by less than 2**-49 of it, and the
    # best candidate may be one that only rounding made so.
    # Prices of the smallest values are multiples of the last float64.
    return math.ldexp(float(size) + price * float(weight), -48) + _LAST * (float(weight) + 4)


def _found(
    flat: Flat, price: float, least: FloatArray, plans: list[IntArray]
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """(group, column, cost, value) of what is worth ``least`` at ``price``, and of some plans."""
    groups, columns, costs, values = [], [], [], []
    for table in flat.tables:
        for rows in table.pieces():
            members = table.member[rows]
            hits = table.reduced(price, rows) >= least[members, None]
            if table.size is not None:
                hits &= np.arange(hits.shape[1]) < table.size[rows, None]
            for plan in plans:
                hits[np.arange(len(hits)), plan[members]] = True
            row, column = np.divmod(np.flatnonzero(hits), hits.shape[1])
            groups.append(members[row])
            row += rows.start
            columns.append(column)
            costs.append(table.costs_at(row, column))
            values.append(table.value[row, column])
    return (
        np.concatenate(groups),
        np.concatenate(columns),
        np.concatenate(costs),
        np.concatenate(values),
    )
