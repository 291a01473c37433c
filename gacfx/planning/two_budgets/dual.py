"""The best prices of budget and limit, and how much every candidate loses at them.

A candidate's loss is how much worse its ``value - price * cost`` is than the best of its group. The
losses of a plan, plus the prices times what it leaves of both rooms, add up to its distance from
the Lagrangian bound. So a candidate that alone loses more than the distance of a known plan is in
no better plan.

Large problems are first solved on a sample of their candidates. Only those that can be best at
prices near that answer matter then; if the peak among them lies within what was meant by near, it
is the peak of all.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.two_budgets.flat import TwoFlat
from gacfx.planning.two_budgets.lagrange import Lagrangian, Peak, Price, highest

_SAMPLES = 17  # candidates per group in the first guess
_ROUGH = 1e-7
_FINE = 1e-15
_NEAR = 0.1  # share by which prices may differ from the guess
_LEAST_NEAR = 0.25  # of the other price, both in units of their rooms
_ROUNDS = 8


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


def solve_dual(flat: TwoFlat) -> Dual:
    """The best prices for a problem with at least one group; every group has a candidate."""
    scales = [float(room or 1) for room in flat.room]
    top = np.maximum.reduceat(flat.value, flat.start[:-1])
    short = flat.spread(top) - flat.value
    unit = float(np.maximum.reduceat(short, flat.start[:-1]).sum()) or 1.0
    lagrangian = Lagrangian(
        start=flat.start,
        short=short / unit,
        first=flat.cost[0] / scales[0],
        second=flat.cost[1] / scales[1],
        room=(flat.room[0] / scales[0], flat.room[1] / scales[1]),
    )
    peak = _peak(lagrangian)
    price = (peak.price[0] * unit / scales[0], peak.price[1] * unit / scales[1])
    return _losses(flat, short, price, open_rooms=peak.ray is None)


def _peak(lagrangian: Lagrangian) -> Peak:
    sizes = lagrangian.start[1:] - lagrangian.start[:-1]
    if len(lagrangian.short) <= 4 * _SAMPLES * len(sizes):
        return highest(lagrangian, _FINE)
    step = np.arange(_SAMPLES)
    sample = lagrangian.start[:-1, None] + (sizes - 1)[:, None] * step // (_SAMPLES - 1)
    known = np.zeros(len(lagrangian.short), np.bool_)
    known[sample] = True
    guess = highest(lagrangian.take(np.flatnonzero(known)), _ROUGH)
    known[:] = False
    for _ in range(_ROUNDS):
        if guess.ray:
            break
        width = _widths(guess.price)
        known |= _best_near(lagrangian, guess.price, width)
        peak = highest(lagrangian.take(np.flatnonzero(known)), _FINE, guess.price)
        moved = [abs(new - old) for new, old in zip(peak.price, guess.price, strict=True)]
        if not peak.ray and moved[0] <= width[0] and moved[1] <= width[1]:
            return peak
        guess = peak
    return highest(lagrangian, _FINE)


def _widths(price: Price) -> Price:
    """How far prices may move while the candidates of ``_best_near`` hold the best."""
    first, second = price
    return (
        _NEAR * max(first, _LEAST_NEAR * second),
        _NEAR * max(second, _LEAST_NEAR * first),
    )


def _best_near(lagrangian: Lagrangian, price: Price, width: Price) -> NDArray[np.bool_]:
    """[candidates] bool: can it be the best of its group at a price so near?"""
    reduced = lagrangian.reduced(price)
    low, pick = lagrangian.least(reduced)
    sizes = lagrangian.start[1:] - lagrangian.start[:-1]
    # What the move of the prices can make good against the candidate that is best now.
    reach = width[0] * np.abs(lagrangian.first - np.repeat(lagrangian.first[pick], sizes))
    reach += width[1] * np.abs(lagrangian.second - np.repeat(lagrangian.second[pick], sizes))
    near: NDArray[np.bool_] = reduced - np.repeat(low, sizes) <= reach + _FINE
    return near


def _losses(flat: TwoFlat, short: FloatArray, price: Price, *, open_rooms: bool) -> Dual:
    reduced = flat.cost[0] * price[0]
    reduced += flat.cost[1] * price[1]
    reduced += short
    low = np.minimum.reduceat(reduced, flat.start[:-1])
    loss = reduced - flat.spread(low)
    hits = np.flatnonzero(loss == 0)
    chosen = hits[np.searchsorted(hits, flat.start[:-1])]
    # Sums of terms >= 0: each is off by less than 2**-50 of itself, and a loss by twice that. Those
    # that matter are hardly above the chosen one; the rest may be off by more and still be large.
    left = flat.left(chosen)
    priced = price[0] * left[0], price[1] * left[1]
    size = float(low.max()) + max(0.0, sum(priced)) + max(abs(term) for term in priced)
    margin = math.ldexp(size, -48)
    slack = sum(priced) + flat.groups * margin
    return Dual(price, chosen, loss, slack, margin, open_rooms)
