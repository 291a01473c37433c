"""The first plan worth having: upgrade one candidate at a time while the budget lasts."""

import numpy as np

from gacfx.planning.arrays import IntArray
from gacfx.planning.fixing import Near
from gacfx.planning.lattice import Flat

_UPGRADES = 64


def fill(flat: Flat, chosen: IntArray, left: int, near: Near) -> IntArray:
    """[groups] positions: ``chosen`` after the most valuable upgrades that fit into ``left``."""
    chosen = chosen.copy()
    position, owner = near.position, near.owner
    for _ in range(_UPGRADES):
        extra = flat.cost[position] - flat.cost[chosen[owner]]
        gain = flat.value[position] - flat.value[chosen[owner]]
        # What does not fit now will not fit later: an upgrade only uses up what is left.
        fits = np.flatnonzero((extra <= left) & (gain > 0))
        if not len(fits):
            break
        pick = fits[np.argmax(gain[fits])]
        left -= int(extra[pick])
        chosen[owner[pick]] = position[pick]
        position, owner = position[fits], owner[fits]
    return chosen
