"""From the best prices to the best plan of two resources: a core that grows.

The first cores hold only the candidates nearest to the Lagrangian bound. They grow until they reach
about as far from the bound as the best plan known: whatever lies farther is in no better plan. Then
everything nearer is searched, with a wider beam if need be. A search that need not drop a state
proves that there is nothing better as far as it looks, and lowers the bound.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.two_budgets.core_problem import build_two
from gacfx.knapsack.two_budgets.cutting_planes import CuttingPlanes, prices_around
from gacfx.knapsack.two_budgets.dynamic_program import search_two
from gacfx.knapsack.two_budgets.lagrangian import Price
from gacfx.knapsack.two_budgets.lagrangian_dual import Dual
from gacfx.knapsack.work import Work

_FIRST_CORE = 64  # candidates, beyond one per group
_FIRST_BEAM = 64
_NEXT = 1.5  # how much farther than the bound the first core reaches
_FARTHER = 256.0  # at most how much farther than the first core the known plan may be
_WIDER = 3.0  # how much farther the next core reaches
_BEYOND = 8.0  # how much farther than its core reaches a plan may be to be of interest
_NEARLY = 2.0  # a core that reaches this close to the known plan is near enough
_BEAMS = (1024, 2**18)
_REMEMBERED = 24  # planes


@dataclass
class TwoCoreSearch:
    """The best plan so far and what is proven about it; gains count from the dual's plan."""

    form: NormalForm
    dual: Dual
    tolerance: float
    """Value by which the result may miss the best"""
    work: Work
    chosen: IntArray | None
    """[groups] positions of a plan that keeps both rooms, if one is known"""
    upper: float = field(init=False)
    """No plan gains more"""
    rounding: float = 0.0
    """What the grids of the searches that proved something can hide"""
    proven: bool = False
    """The search was exhausted: ``chosen`` is best, or there is no plan at all"""
    blurred: int = 0
    core_groups: int = 0
    core_candidates: int = 0
    planes: int = 0
    """Most planes of a search"""
    _learned: list[Price] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.upper = self.dual.slack
        # The searches look at what follows from the dual's plan, not at that plan itself.
        if self.chosen is None and min(self.form.left(self.dual.chosen)) >= 0:
            self.chosen = self.dual.chosen

    @property
    def gain(self) -> float:
        """What the plan gains; -inf if there is none."""
        return -math.inf if self.chosen is None else self.gain_of(self.chosen)

    def gain_of(self, plan: IntArray) -> float:
        """What any plan gains."""
        return math.fsum(self.form.value[plan] - self.form.value[self.dual.chosen])

    def take(self, plan: IntArray) -> None:
        """Keep a plan if it is the best so far; it must keep both rooms."""
        if self.gain_of(plan) > self.gain:
            self.chosen = plan

    def good_enough(self) -> bool:
        """True if the plan is proven, within the tolerance, or at the bound but for dust."""
        distance = self.upper - self.gain
        if self.proven or distance <= self.tolerance:
            return True
        if distance > 2 * self.form.groups * self.dual.margin:
            return False
        whole = distance < 0.5 and bool((self.form.value == np.rint(self.form.value)).all())
        self.rounding = 0.0 if whole else distance
        self.proven = True
        return True

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
                complete = self._search(farthest, -math.inf, _FIRST_BEAM)
                self.proven = complete and (self.chosen is None or self.tolerance == 0)
                return
            floor = max(self.gain + self.tolerance, self.dual.slack - _BEYOND * reach)
            complete = self._search(reach, floor, _FIRST_BEAM)
            near = self.dual.slack - self.gain <= reach
            self.proven = complete and near and self.tolerance == 0
            open_candidates = int(np.count_nonzero(self.dual.loss <= reach)) - self.form.groups
            reach = max(_WIDER * reach, self._reach_of(2 * open_candidates))

    def improve(self) -> None:
        """From a plan to the best, or until it is good enough, or the work is used up."""
        for beam in _BEAMS:
            if self.good_enough() or self.work.spent():
                return
            floor = self.gain + self.tolerance
            complete = self._search(self.dual.slack - floor, floor, beam)
            self.proven = complete and self.tolerance == 0

    def _reach_of(self, candidates: int) -> float:
        """How far a core of so many candidates, beyond one per group, reaches."""
        size = min(self.form.groups + candidates, len(self.dual.loss) - 1)
        return float(np.partition(self.dual.loss, size)[size])

    def _farthest(self) -> float:
        """Farther from the bound than any plan that keeps both rooms."""
        worst = float(np.maximum.reduceat(self.dual.loss, self.form.start[:-1]).sum())
        rooms = zip(self.dual.price, self.form.room, strict=True)
        return 2 * (worst + sum(price * room for price, room in rooms)) + self.dual.margin

    def _search(self, reach: float, floor: float, beam: int) -> bool:
        """Look for plans above ``floor`` in the core that reaches so far; was it exhausted?"""
        core = build_two(self.form, self.dual, reach)
        left = self.form.left(self.dual.chosen)
        scaled = [core.priced(price) for price in (self.dual.price, *self._learned)]
        planes = CuttingPlanes(core, left, [*prices_around(core, scaled[0]), *scaled[1:]])
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
