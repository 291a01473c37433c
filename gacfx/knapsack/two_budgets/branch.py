"""A part of a problem of two budgets: some candidates are left out, so that its dual is tighter.

The dual of a part bounds the plans in it. Where that bound is loose, a group stands with a share of
one candidate and a share of another one that costs much more: a weight half dense and half of low
rank. Two parts, one with the dearer candidates of the group and one with the cheaper ones, leave no
such mixture, and both are bounded tighter.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.two_budgets.dual import Dual, solve_dual
from gacfx.knapsack.two_budgets.flat import TwoFlat
from gacfx.knapsack.two_budgets.halves import meet
from gacfx.knapsack.two_budgets.items import TwoCore, build_two
from gacfx.knapsack.work import Work

_FIRST_CORE = 48  # candidates, beyond one per group
_FEW = 3_000  # entries; to look at less saves no time
_MORE = 2.5  # times more entries is what the next search shall look at
_NEARLY = 1.2  # a plan that is known so little farther away is the goal of the next search
_POWERS = (2.5, 5.0)
"""Entries are expected to grow like such powers of the distance"""
_DUST_STEPS = 8  # more than adding up losses in float64 can get wrong
_TIED = 64.0  # margins; candidates that lose no more are in the mixture at the dual prices
_MOST_TIED = 8
_LEAST_SHARE = 0.05  # a cut is not put closer to one of the two mixed candidates


@dataclass
class Branch:
    """A part of a problem, and how far from its dual bound it was searched.

    All gains count from the chosen plan of the whole problem.
    """

    flat: TwoFlat
    dual: Dual
    position: IntArray
    """[positions] of the root"""
    offset: float
    """What the chosen plan gains"""
    upper: float
    """No plan of this part gains more"""
    searched: float = 0.0
    """Distance below the dual bound within which there is no plan"""
    looked_at: int = 0
    """How much the last search had to look at"""
    refused: int = 0
    """``looked_at`` when splitting did not help"""
    core: TwoCore | None = None
    """The last one that was searched"""
    stuck: bool = False
    """It was too much"""
    _reach: float = field(init=False)

    def __post_init__(self) -> None:
        self.upper = min(self.upper, self.offset + self.dual.slack)
        size = min(self.flat.groups + _FIRST_CORE, len(self.dual.loss) - 1)
        nearest = float(np.partition(self.dual.loss, size)[size])
        self._reach = max(nearest, 4 * self.flat.groups * self.dual.margin)

    def distance(self, gain: float) -> float:
        """How far from the dual bound a plan of this gain is."""
        return self.offset + self.dual.slack - gain

    def deepen(self, gain: float, like: IntArray, most: int, work: Work) -> IntArray | None:
        """Search a little farther for plans above ``gain``; a good plan, in positions of the root.

        ``upper`` falls, and becomes -inf if that plan is the best of this part.

        Args:
            gain: of plans that are of no interest.
            like: [groups] rank; groups of one kind follow each other.
            most: entries to look at, beyond which the search is stuck.
            work: only its end is looked at.
        """
        dual, flat = self.dual, self.flat
        farthest = self.distance(gain)
        reach = farthest if _NEARLY * self._reach >= farthest else self._reach
        self.core = core = build_two(flat, dual, reach)
        grid = core.grid
        floor = grid.floor(dual.slack - reach)
        found = meet(
            core,
            np.argsort(like[core.group]),
            core.priced(dual.price),
            flat.left(dual.chosen),
            need=floor + grid.unit,
            limit=core.grid.floor(reach + 2 * flat.groups * dual.margin)
            + core.grid.unit
            + _DUST_STEPS,
            most=most,
            work=work,
        )
        # A reach of 0 does not grow: all candidates lose nothing.
        self.stuck = not found.complete or not reach
        if not found.complete:
            return None
        self._reach = reach * self._step(reach, found.looked_at)
        self.searched, self.looked_at = reach, found.looked_at
        # Candidates outside the core are in no plan nearer to the bound than its reach.
        hidden = math.ldexp(floor, -grid.exponent) + grid.rounding
        self.upper = min(self.upper, self.offset + max(dual.slack - reach, hidden))
        if reach == farthest:
            self.upper = min(self.upper, gain)
        if found.picks is None:
            return None
        if found.gain > floor:
            self.upper = -math.inf
        plan = dual.chosen.copy()
        plan[list(found.picks)] = list(found.picks.values())
        return self.position[plan]

    def _step(self, reach: float, looked_at: int) -> float:
        """How much farther to look: entries grow about like a power of the reach."""
        wanted = math.log(max(_MORE, _FEW / max(1, looked_at)))
        power = _POWERS[1]
        if self.looked_at and reach > self.searched:
            grown = math.log(max(looked_at, 1) / self.looked_at)
            power = grown / math.log(reach / self.searched)
        return math.exp(wanted / min(_POWERS[1], max(_POWERS[0], power)))

    def split(self, gain: float) -> "list[Branch] | None":
        """Two parts that hold all plans above ``gain``; fewer if one is empty; None: no mixture."""
        cut = self._widest_mixture()
        if cut is None:
            return None
        group, axis, cost = cut
        flat = self.flat
        near = np.zeros(len(self.dual.loss), np.bool_)
        near[self.dual.within(self.distance(gain))] = True
        mine = slice(int(flat.start[group]), int(flat.start[group + 1]))
        cheap = flat.cost[axis, mine] <= cost
        parts = []
        for side in (cheap, ~cheap):
            keep = near.copy()
            keep[mine] &= side
            parts.append(self._part(np.flatnonzero(keep)))
        return [part for part in parts if part]

    def _part(self, keep: IntArray) -> "Branch | None":
        flat = self.flat.take(keep)
        if flat.closed:
            return None
        dual = solve_dual(flat, self.dual.price)
        moved = flat.value[dual.chosen] - self.flat.value[self.dual.chosen]
        offset = self.offset + math.fsum(moved)
        return Branch(flat, dual, self.position[keep], offset, self.upper)

    def _widest_mixture(self) -> tuple[int, int, float] | None:
        """(group, resource, cost that lies between) of the widest mixture at the dual prices."""
        flat, dual = self.flat, self.dual
        tied = np.flatnonzero(dual.loss <= _TIED * dual.margin)
        owner = flat.owner(tied)
        mixed = np.flatnonzero(tied != dual.chosen[owner])[:_MOST_TIED]
        tied, owner = tied[mixed], owner[mixed]
        if not len(tied):
            return None
        base = flat.cost[:, dual.chosen[owner]]
        step = (flat.cost[:, tied] - base).astype(np.float64)
        price = np.array(dual.price)
        priced = np.abs(price[:, None] * step)
        if not priced.any():
            return None
        share = _shares(price[:, None] * step, price * np.array(flat.left(dual.chosen)))
        widest = int(priced.max(axis=0).argmax())
        axis = int(priced[:, widest].argmax())
        between = float(np.clip(share[widest], _LEAST_SHARE, 1 - _LEAST_SHARE))
        cost = float(base[axis, widest]) + between * float(step[axis, widest])
        return int(owner[widest]), axis, cost


def _shares(step: FloatArray, room: FloatArray) -> FloatArray:
    """[steps] how much of each step fills the room; where many do, the shortest answer."""
    return np.asarray(np.linalg.lstsq(step, room, rcond=1e-9)[0], np.float64)
