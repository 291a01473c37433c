"""The best prices of budget and limit, and how much every candidate loses at them.

A candidate's loss is how much worse its ``value - price * cost`` is than the best of its group. The
losses of a plan, plus the prices times what it leaves of both rooms, add up to its distance from
the Lagrangian bound. So a candidate that alone loses more than the distance of a known plan is in
no better plan.

Large problems are first solved on a sample of their candidates, then on those beside the ones that
are best at the prices found so. Where all candidates together are as high as the peak of some, it
is the peak of all.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.two_budgets.lagrangian import Lagrangian, Peak, Price, highest

_SAMPLES = 17  # candidates per group in the first guess
_ROUGH = 1e-7
_FINE = 1e-15
_SAME = 1e-14
_BESIDE = 6  # candidates on either side of a picked one
_LOOKS = ((4, 1e-6), *((1, _FINE),) * 8)
"""Each time at all candidates: the stride between those that are taken, and the tolerance"""


@dataclass(frozen=True)
class Dual:
    """Prices, the plan that is best at them, and what the others lose."""

    price: Price
    """Value per unit of budget and of limit"""
    chosen: IntArray
    """[groups] positions; this plan may pass a room"""
    loss: FloatArray
    """[positions]"""
    slack: float
    """The Lagrangian bound minus the value of the chosen plan, rounded up"""
    margin: float
    """More than what float64 can get wrong in one loss"""
    open_rooms: bool
    """False: it seems that not even a mixture of plans keeps both rooms"""

    def within(self, distance: float) -> IntArray:
        """Positions of the candidates that lose at most ``distance``, and a margin."""
        reach = distance * (1 + math.ldexp(1.0, -48)) + self.margin
        return np.flatnonzero(self.loss <= reach)


def solve_dual(form: NormalForm) -> Dual:
    """The best prices for a problem with at least one group; every group has a candidate."""
    scales = [float(room or 1) for room in form.room]
    top = np.maximum.reduceat(form.value, form.start[:-1])
    short = form.spread(top) - form.value
    unit = float(np.maximum.reduceat(short, form.start[:-1]).sum()) or 1.0
    lagrangian = Lagrangian(
        start=form.start,
        short=short / unit,
        first=form.cost[0] / scales[0],
        second=form.cost[1] / scales[1],
        room=(form.room[0] / scales[0], form.room[1] / scales[1]),
    )
    peak = _peak(lagrangian)
    price = (peak.price[0] * unit / scales[0], peak.price[1] * unit / scales[1])
    return _losses(form, short, price, open_rooms=peak.ray is None)


def _peak(lagrangian: Lagrangian) -> Peak:
    sizes = lagrangian.start[1:] - lagrangian.start[:-1]
    if len(lagrangian.short) <= 4 * _SAMPLES * len(sizes):
        return highest(lagrangian, _FINE)
    step = np.arange(_SAMPLES)
    known = np.zeros(len(lagrangian.short), np.bool_)
    known[lagrangian.start[:-1, None] + (sizes - 1)[:, None] * step // (_SAMPLES - 1)] = True
    peak, is_fine = highest(lagrangian.take(np.flatnonzero(known)), _ROUGH), False
    known[:] = False
    known[lagrangian.start[:-1]] = known[lagrangian.start[1:] - 1] = True
    for stride, tolerance in _LOOKS:
        if peak.ray:
            break
        low, pick = lagrangian.least(lagrangian.reduced(peak.price))
        # All candidates together are nowhere higher than some of them.
        if is_fine and lagrangian.height(low, peak.price) >= peak.height - _SAME:
            return peak
        known[_beside(lagrangian, pick, stride)] = True
        peak = highest(lagrangian.take(np.flatnonzero(known)), tolerance, peak.price)
        is_fine = tolerance == _FINE
    return highest(lagrangian, _FINE)


def _beside(lagrangian: Lagrangian, pick: IntArray, stride: int) -> IntArray:
    """[groups, candidates] those near the picked ones, in the order of their costs."""
    beside: IntArray = pick[:, None] + stride * np.arange(-_BESIDE, _BESIDE + 1)
    np.clip(beside, lagrangian.start[:-1, None], lagrangian.start[1:, None] - 1, out=beside)
    return beside


def _losses(form: NormalForm, short: FloatArray, price: Price, *, open_rooms: bool) -> Dual:
    reduced = form.cost[0] * price[0]
    reduced += form.cost[1] * price[1]
    reduced += short
    low = np.minimum.reduceat(reduced, form.start[:-1])
    loss = reduced - form.spread(low)
    hits = np.flatnonzero(loss == 0)
    chosen = hits[np.searchsorted(hits, form.start[:-1])]
    # Sums of terms >= 0: each is off by less than 2**-50 of itself, and a loss by twice that. Those
    # that matter are hardly above the chosen one; the rest may be off by more and still be large.
    left = form.left(chosen)
    priced = price[0] * left[0], price[1] * left[1]
    size = float(low.max()) + max(0.0, sum(priced)) + max(abs(term) for term in priced)
    margin = math.ldexp(size, -48)
    slack = sum(priced) + form.groups * margin
    return Dual(price, chosen, loss, slack, margin, open_rooms)
