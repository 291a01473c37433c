"""Dominance: a candidate worth no more than a cheaper one of its group is in no best plan."""

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form.lattice import Flat


def undominated(flat: Flat, position: IntArray, owner: IntArray) -> IntArray:
    """Indices of the candidates worth more than every cheaper one of their group listed here.

    Of equal candidates the first stays: the cheapest, then the lowest index.
    """
    return records(flat.value[position], owner)


def records(value: FloatArray, owner: IntArray) -> IntArray:
    """Indices of the candidates worth more than all before them in their group."""
    falls = (value[1:] <= value[:-1]) & (owner[1:] == owner[:-1])
    if not falls.any():
        return np.arange(len(value))
    best = value.copy()
    longest = int(np.bincount(owner).max())
    shift = 1
    while shift < longest:
        same = owner[shift:] == owner[:-shift]
        best[shift:] = np.where(same, np.maximum(best[shift:], best[:-shift]), best[shift:])
        shift *= 2
    keep = np.ones(len(value), np.bool_)
    keep[1:] = (owner[1:] != owner[:-1]) | (value[1:] > best[:-1])
    return np.flatnonzero(keep)
