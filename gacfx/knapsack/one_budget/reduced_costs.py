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
from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed
from gacfx.knapsack.order import ends_of

_LAST = 2.0**-1074


@dataclass(frozen=True)
class Unfixed:
    """The candidates near the Lagrangian bound, where a group has more than the relaxed plan's."""

    group: IntArray
    """[open] numbers of the groups with something to decide, ascending"""
    ends: IntArray
    """[open + 1] where their candidates begin, and the end"""
    owner: IntArray
    """[candidates] index into ``group``"""
    position: IntArray
    """[candidates] in the normal form, ascending"""
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

    def gain(self, plan: IntArray) -> float:
        """How much more than the relaxed plan a plan is worth; ``plan``: [open] indices."""
        return math.fsum((self.value[plan] - self.value[self.base]).tolist())


def unfixed(form: NormalForm, relaxed: Relaxed) -> Unfixed:
    """The candidates that can be in a plan better than the best one of ``relaxed``."""
    price, margin = relaxed.multiplier, _margin(form, relaxed.multiplier)

    def reduced(part: IntArray | slice) -> FloatArray:
        return form.value[part] - price * form.cost[0, part]

    top = reduced(relaxed.best)
    plans = [relaxed.chosen, relaxed.better]
    distances = [
        price * (form.room[0] - int(form.cost[0, plan].sum()))
        + float((top - reduced(plan)).sum())
        + form.groups * margin
        for plan in plans
    ]
    least = top - (distances[-1] + margin)
    found = plans[:]
    for first, last in form.pieces():
        part = slice(int(form.start[first]), int(form.start[last]))
        lows = np.repeat(least[first:last], form.sizes[first:last])
        found.append(part.start + np.flatnonzero(reduced(part) >= lows))
    position = np.unique(np.concatenate(found))
    group = form.owner(position)
    count = np.bincount(group, minlength=form.groups)
    is_open = np.flatnonzero(count > 1)
    position = position[count[group] > 1]
    owner = np.repeat(np.arange(len(is_open)), count[is_open])
    return Unfixed(
        group=is_open,
        ends=ends_of(count[is_open]),
        owner=owner,
        position=position,
        cost=form.cost[0, position],
        value=form.value[position],
        loss=top[is_open][owner] - reduced(position),
        base=np.searchsorted(position, relaxed.chosen[is_open]),
        better=np.searchsorted(position, relaxed.better[is_open]),
        multiplier=price,
        left=relaxed.left,
        slack=distances[0],
        margin=margin,
    )


def _margin(form: NormalForm, price: float) -> float:
    # Values rise in a group, so its ends are the largest and the smallest.
    size = max(form.value[form.start[1:] - 1].max(), -form.value[form.start[:-1]].min())
    weight = float(form.cost[0, form.start[1:] - 1].max())
    # A difference of two products and sums of this size is off by less than 2**-49 of it, and the
    # best candidate may be one that only rounding made so.
    # Prices of the smallest values are multiples of the last float64.
    return math.ldexp(float(size) + price * weight, -48) + _LAST * (weight + 4)
