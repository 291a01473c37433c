"""The first plan worth having: prices raised until the plan fits, then upgrades while they do."""

import math

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.two_budgets.lagrangian_dual import Dual

_RAISES = 24
_FIRST_RAISE = 1e-3  # of the price
_STEEPER = 4.0  # each raise of a price over the one before
_LEAST_SHARE = 0.01
_PASSES = 16


def first_plan(form: NormalForm, dual: Dual) -> IntArray | None:
    """[groups] positions of a plan that keeps both rooms; None if raised prices find none."""
    short = form.spread(np.maximum.reduceat(form.value, form.start[:-1])) - form.value
    prices, raises = list(dual.price), _first_raises(form, dual)
    plan = richer = dual.chosen
    for _ in range(_RAISES):
        left = form.left(plan)
        if min(left) >= 0:
            return filled(form, dual, _towards(form, plan, richer))
        richer = plan
        for resource in (0, 1):
            if left[resource] < 0:
                prices[resource] += raises[resource]
                raises[resource] *= _STEEPER
        reduced = short + prices[0] * form.cost[0]
        reduced += prices[1] * form.cost[1]
        low = np.minimum.reduceat(reduced, form.start[:-1])
        hits = np.flatnonzero(reduced == form.spread(low))
        plan = hits[np.searchsorted(hits, form.start[:-1])]
    return None


def _first_raises(form: NormalForm, dual: Dual) -> list[float]:
    """A small share of each price, or of the other one where that is worth more per room."""
    rooms = [price * room for price, room in zip(dual.price, form.room, strict=True)]
    most = max(rooms)
    shares = [_FIRST_RAISE * max(worth, _LEAST_SHARE * most) for worth in rooms]
    return [share / (room or 1) for share, room in zip(shares, form.room, strict=True)]


def _towards(form: NormalForm, plan: IntArray, richer: IntArray) -> IntArray:
    """``plan`` with as many groups of ``richer`` as fit, the most valuable first."""
    plan = plan.copy()
    gain = form.value[richer] - form.value[plan]
    extra = (form.cost[:, richer] - form.cost[:, plan]).T.tolist()
    first, second = form.left(plan)
    for group in np.argsort(-gain, kind="stable").tolist():
        more, other = extra[group]
        if gain[group] > 0 and more <= first and other <= second:
            plan[group] = richer[group]
            first, second = first - more, second - other
    return plan


def filled(form: NormalForm, dual: Dual, plan: IntArray) -> IntArray:
    """``plan`` after the most valuable upgrades that both rooms allow."""
    distance = dual.slack - math.fsum(form.value[plan] - form.value[dual.chosen])
    position = dual.within(distance)  # no other candidate is in a better plan
    owner = form.owner(position)
    for _ in range(_PASSES):
        gain = form.value[position] - form.value[plan[owner]]
        extra = form.cost[:, position] - form.cost[:, plan[owner]]
        left = np.array(form.left(plan))[:, None]
        fits = np.flatnonzero((gain > 0) & (extra <= left).all(axis=0))
        if not len(fits):
            break
        fits = fits[np.lexsort((-gain[fits], owner[fits]))]
        best = fits[np.append(True, owner[fits[1:]] != owner[fits[:-1]])]
        richer = plan.copy()
        richer[owner[best]] = position[best]
        plan = _towards(form, plan, richer)
        worth = gain > 0
        position, owner = position[worth], owner[worth]
    return plan
