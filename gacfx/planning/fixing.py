"""Reduced-cost fixing: which candidates can still be part of a better plan.

At a multiplier every candidate has a *loss*: how much worse its ``value - multiplier * cost`` is
than the best of its group. The losses of a plan, plus the multiplier times what it leaves unspent,
add up to its distance from the Lagrangian bound. So a candidate that alone loses more than the
distance of a known plan is in no better plan.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.lattice import Flat
from gacfx.planning.relaxation import Relaxed


@dataclass(frozen=True)
class Near:
    """The candidates near the Lagrangian bound, ascending by position."""

    position: IntArray
    owner: IntArray
    loss: FloatArray
    slack: float
    """The Lagrangian bound minus the value of the relaxed plan, rounded up"""
    margin: float
    """More than what float64 can get wrong in one loss"""

    def within(self, distance: float) -> "Near":
        """Those that lose at most ``distance``, and a margin."""
        keep = self.loss <= distance + self.margin
        return Near(self.position[keep], self.owner[keep], self.loss[keep], self.slack, self.margin)


def near(flat: Flat, relaxed: Relaxed) -> Near:
    """The candidates that can be in a plan better than the relaxed one."""
    reduced = flat.value - relaxed.multiplier * flat.weight
    top = np.maximum.reduceat(reduced, flat.start[:-1])
    size = max(float(flat.value.max()), -float(flat.value.min()))
    # A difference of two products and sums of this size is off by less than 2**-49 of it.
    margin = math.ldexp(size + relaxed.multiplier * float(flat.weight.max()), -49)
    off = float((top - reduced[relaxed.chosen]).sum())
    slack = relaxed.multiplier * relaxed.left + off + flat.groups * margin
    position = np.flatnonzero(reduced >= flat.spread(top - (slack + margin)))
    owner = flat.owner(position)
    return Near(position, owner, top[owner] - reduced[position], slack, margin)


def undominated(flat: Flat, position: IntArray, owner: IntArray) -> IntArray:
    """Indices of the candidates worth more than every cheaper one of their group listed here.

    Of equal candidates the first stays: the cheapest, then the lowest index.
    """
    value = flat.value[position]
    best = value.copy()
    longest = int(np.bincount(owner).max()) if len(owner) else 0
    shift = 1
    while shift < longest:
        same = owner[shift:] == owner[:-shift]
        best[shift:] = np.where(same, np.maximum(best[shift:], best[:-shift]), best[shift:])
        shift *= 2
    keep = np.ones(len(position), np.bool_)
    keep[1:] = (owner[1:] != owner[:-1]) | (value[1:] > best[:-1])
    return np.flatnonzero(keep)
