"""From the best prices to the best plan of two resources: rounds of core search.

For what the search by halves left open. The first cores hold only the candidates nearest to the
Lagrangian bound. They grow until they reach about as far from the bound as the best plan known:
whatever lies farther is in no better plan. Then everything nearer is searched with ever wider
beams. One round between is a bet: it looks only at a share of the distance, for plans much better
than the one at hand. A round that need not drop a state proves that there is nothing better as far
as it looks, and lowers the bound.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from gacfx.knapsack.two_budgets.items import build_two
from gacfx.knapsack.two_budgets.lagrange import Price
from gacfx.knapsack.two_budgets.planes import Planes, prices_around
from gacfx.knapsack.two_budgets.progress import Progress
from gacfx.knapsack.two_budgets.search import search_two

_FIRST_CORE = 64  # candidates, beyond one per group
_FIRST_BEAM = 64
_NEXT = 1.5  # how much farther than the bound the first core reaches
_FARTHER = 256.0  # at most how much farther than the first core the known plan may be
_WIDER = 3.0  # how much farther the next core reaches
_BEYOND = 8.0  # how much farther than its core reaches a plan may be to be of interest
_NEARLY = 2.0  # a core that reaches this close to the known plan is near enough
_ROUNDS = ((1.0, 1024), (1 / 3, 1024), (1.0, 4096), (1.0, 2**18))
"""Share of the distance that a round looks at, and its beam"""
_SMALL_CORE = 150  # candidates, beyond one per group, that need no bets
_REMEMBERED = 24  # planes


@dataclass
class TwoRounds(Progress):
    """Rounds of search, each of a core and with a beam."""

    _learned: list[Price] = field(default_factory=list)

    def approach(self) -> None:
        """Find a good plan, or a proof that there is none, with cores that grow."""
        farthest = self._farthest()
        excluded = _NEXT * (self.dual.slack - self.upper)
        far = 0.0 if self.chosen is None else (self.dual.slack - self.gain) / _FARTHER
        reach = max(self._reach_of(_FIRST_CORE), self.dual.margin, excluded, far)
        while not (self.good_enough() or self.work.spent()):
            if _NEARLY * reach >= self.dual.slack - self.gain:
                return
            if reach >= farthest:
                complete = self._round(farthest, -math.inf, _FIRST_BEAM)
                self.proven = complete and (self.chosen is None or self.tolerance == 0)
                return
            floor = max(self.gain + self.tolerance, self.dual.slack - _BEYOND * reach)
            complete = self._round(reach, floor, _FIRST_BEAM)
            near = self.dual.slack - self.gain <= reach
            self.proven = complete and near and self.tolerance == 0
            open_candidates = int(np.count_nonzero(self.dual.loss <= reach)) - self.flat.groups
            reach = max(_WIDER * reach, self._reach_of(2 * open_candidates))

    def improve(self) -> None:
        """From a plan to the best, or until it is good enough, or the work is used up."""
        for share, beam in _ROUNDS:
            if self.good_enough() or self.work.spent():
                return
            before = self.gain
            distance = self.upper - before
            if share < 1 and self._is_small(distance):
                continue
            floor = before + self.tolerance if share == 1 else self.upper - share * distance
            complete = self._round(self.dual.slack - floor, floor, beam)
            exhausted = complete and (share == 1 or self.gain > before)
            self.proven = exhausted and self.tolerance == 0

    def _reach_of(self, candidates: int) -> float:
        """How far a core of so many candidates, beyond one per group, reaches."""
        size = min(self.flat.groups + candidates, len(self.dual.loss) - 1)
        return float(np.partition(self.dual.loss, size)[size])

    def _farthest(self) -> float:
        """Farther from the bound than any plan that keeps both rooms."""
        worst = float(np.maximum.reduceat(self.dual.loss, self.flat.start[:-1]).sum())
        rooms = zip(self.dual.price, self.flat.room, strict=True)
        return 2 * (worst + sum(price * room for price, room in rooms)) + self.dual.margin

    def _is_small(self, distance: float) -> bool:
        near = int(np.count_nonzero(self.dual.loss <= distance))
        return near < self.flat.groups + _SMALL_CORE

    def _round(self, reach: float, floor: float, beam: int) -> bool:
        """Look for plans above ``floor`` in the core that reaches so far; was it exhausted?"""
        core = build_two(self.flat, self.dual, reach)
        left = self.flat.left(self.dual.chosen)
        scaled = [core.priced(price) for price in (self.dual.price, *self._learned)]
        planes = Planes(core, left, [*prices_around(core, scaled[0]), *scaled[1:]])
        begun = planes.count
        found = search_two(
            core,
            planes,
            left,
            floor=core.grid.floor(floor),
            tolerance=core.grid.floor(self.tolerance),
            beam=beam,
            work=self.work,
        )
        self._learned = [*self._learned, *planes.prices(begun)][-_REMEMBERED:]
        self.planes = max(self.planes, planes.count)
        self.core_groups, self.core_candidates = core.levels, len(core.gain)
        self.blurred, self.rounding = core.grid.blurred, core.grid.rounding
        # Candidates outside this core are in no plan nearer to the bound than its reach.
        reached = math.ldexp(found.bound, -core.grid.exponent) + core.grid.rounding
        self.upper = min(self.upper, max(self.dual.slack - reach, reached))
        if found.picks:
            plan = self.dual.chosen.copy()
            plan[list(found.picks)] = list(found.picks.values())
            self.take(plan)
        return found.complete
