"""How many units each structure keeps when a method of pruning allocates by itself: unaligned.

local    every structure loses the same share of its units, its lowest-scored ones, to rounding
global   units with the lowest scores per parameter go, wherever they are

Neither removes less than the budget asks, and each structure keeps at least one unit. Source:
LLM-Pruner (arXiv 2305.11627); its code compares scores of heads and of channels as they are, here
each counts per parameter that goes with it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heappush
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gacfx.core.structure_curves import StructureCurve
from gacfx.errors import InfeasibleBudget

Scope = Literal["local", "global"]


@dataclass(frozen=True, eq=False)
class Units:
    """What one structure may lose."""

    name: str
    count: int
    params: int
    """Of each unit, in all members."""
    scores: NDArray[np.float64]
    """[count] rising: the order in which units go."""

    @staticmethod
    def of(curve: StructureCurve) -> "Units":
        """Those of a curve whose losses are sums of the scores of units that are gone."""
        whole, heads = curve.facts.units, curve.facts.heads
        params = [
            sum(rows * columns for rows, columns in (m.at((n, heads)) for m in curve.facts.members))
            for n in (whole, whole - 1)
        ]
        scores = -np.diff(curve.losses[-1])[::-1]
        return Units(curve.name, whole, params[0] - params[1], scores)


def own_sizes(units: Sequence[Units], gone: int, scope: Scope) -> dict[str, int]:
    """Structure -> units that stay.

    Args:
        units: of the structures that may be pruned, in the order of the graph.
        gone: parameters to remove, at least.
        scope: whether structures lose equal shares, or units are compared between structures.

    Raises:
        InfeasibleBudget: one unit of each structure is still too much.
    """
    most = sum((one.count - 1) * one.params for one in units)
    if gone > most:
        raise InfeasibleBudget(
            f"the structures that it may prune can lose {most:,} parameters, {gone:,} shall go; "
            "remove less, or let it prune more layers",
            needed=gone,
            budget=most,
        )
    if gone <= 0:
        return {one.name: one.count for one in units}
    lost = _equal_shares(units, gone) if scope == "local" else _lowest(units, gone)
    return {one.name: one.count - n for one, n in zip(units, lost, strict=True)}


def _equal_shares(units: Sequence[Units], gone: int) -> list[int]:
    """Units that each loses at the smallest share that is enough.

    Whole units remove too much: as long as enough is gone, one comes back to the structure that
    lost the largest share; of equal ones, to that of the largest units.
    """
    shares = sorted({Fraction(n, one.count) for one in units for n in range(one.count + 1)})

    def at(share: Fraction) -> list[int]:
        return [min(int(share * one.count), one.count - 1) for one in units]

    share = shares[bisect_left(shares, gone, key=lambda share: _params(units, at(share)))]
    lost, over = at(share), _params(units, at(share)) - gone

    def row(place: int) -> tuple[Fraction, int, int]:
        return -Fraction(lost[place], units[place].count), -units[place].params, place

    losers = [row(place) for place, n in enumerate(lost) if n]
    heapify(losers)
    while losers:
        place = heappop(losers)[2]
        if units[place].params <= over:  # what does not fit now will not fit later
            lost[place] -= 1
            over -= units[place].params
            if lost[place]:
                heappush(losers, row(place))
    return lost


def _lowest(units: Sequence[Units], gone: int) -> list[int]:
    """Units that each loses when the lowest scores per parameter go first."""
    worth = np.concatenate([one.scores[:-1] / one.params for one in units])
    owner = np.repeat(np.arange(len(units)), [one.count - 1 for one in units])
    owner = owner[np.argsort(worth, kind="stable")]
    total = np.cumsum(np.array([one.params for one in units], np.int64)[owner])
    enough = int(np.searchsorted(total, gone)) + 1
    return [int(n) for n in np.bincount(owner[:enough], minlength=len(units))]


def _params(units: Sequence[Units], lost: Sequence[int]) -> int:
    return sum(n * one.params for one, n in zip(units, lost, strict=True))
