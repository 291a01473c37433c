"""Unfinished plans of two resources, and which of them are worth keeping."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray

_CELLS = (32, 512)
"""Least and most cells along each room; between them, the root of the number of states"""


@dataclass(frozen=True)
class States:
    """What they leave of both rooms, what they have gained, and how much more they can."""

    left: IntArray
    """[2, states]"""
    gain: FloatArray
    plane: IntArray
    """Index of the plane that bounds each state best"""
    bound: FloatArray
    pair: NDArray[np.int32]
    """candidate * (number of states before) + state it came from"""

    def take(self, keep: IntArray) -> "States":
        """The states ``keep``."""
        return States(
            self.left[:, keep],
            self.gain[keep],
            self.plane[keep],
            self.bound[keep],
            self.pair[keep],
        )

    def reaching(self, need: float) -> "States":
        """Those whose bound is at least ``need``."""
        keep = np.flatnonzero(self.bound >= need)
        return self if len(keep) == len(self.gain) else self.take(keep)

    def best_fitting(self) -> int:
        """The state of most gain within both rooms; -1 if there is none."""
        fits = np.flatnonzero((self.left >= 0).all(axis=0))
        return int(fits[self.gain[fits].argmax()]) if len(fits) else -1


def undominated(left: IntArray, gain: FloatArray) -> IntArray:
    """Most of the states that no other one matches in both rests and in gain.

    Among those that leave the same of the first room neighbours are compared. Among the others it
    goes by cells: a state goes that gains no more than one in a cell that leaves more of both.
    """
    order = np.lexsort((-gain, -left[1], -left[0]))
    first, gained = left[0, order], gain[order]
    better = np.ones(len(order), np.bool_)
    better[1:] = (first[1:] != first[:-1]) | (gained[1:] > gained[:-1])
    order, gained = order[better], gained[better]
    cells = min(_CELLS[1], max(_CELLS[0], math.isqrt(len(order))))
    row = np.arange(len(order)) * cells // len(order)
    column = np.empty_like(row)
    column[np.argsort(-left[1, order], kind="stable")] = row
    best = np.full((cells + 1, cells + 1), -np.inf)
    np.maximum.at(best, (row + 1, column + 1), gained)
    best = np.maximum.accumulate(np.maximum.accumulate(best, axis=0), axis=1)
    return order[best[row, column] < gained]
