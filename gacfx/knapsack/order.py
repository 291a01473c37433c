"""Small tools for arrays of groups: where they begin, and a fast order among equals."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import IntArray

_FEW = 256  # numpy's stable sort is as fast as any


def ends_of(sizes: NDArray[Any]) -> IntArray:
    """[groups] sizes -> [groups + 1] where the groups begin, and the end."""
    ends = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    return ends


def stable_order(keys: IntArray) -> IntArray:
    """Indices that sort ``keys``; equals stay in order.

    The index goes into the low bits of every key, which makes all keys different. Any sort of
    numpy will do then, and the fastest is about six times faster than the stable one.
    """
    count = len(keys)
    if count > _FEW:
        low, bits = int(keys.min()), count.bit_length()
        if (int(keys.max()) - low) >> (62 - bits) == 0:
            packed = (keys - low << bits) + np.arange(count)
            packed.sort()
            order: IntArray = packed & ((1 << bits) - 1)
            return order
    return np.argsort(keys, kind="stable")
