"""Split a problem of two budgets, and search its parts, always the one with the highest bound.

A part is searched from its dual bound downwards, as long as little has to be looked at. Where that
gets much, it is split; where splitting does not lower the bound either, it is searched on. Many
problems need no split at all. Those that would take too many are left to a search of another kind.
"""

import heapq
import math

import numpy as np

from gacfx.knapsack.two_budgets.branch import Branch
from gacfx.knapsack.two_budgets.first import first_plan
from gacfx.knapsack.two_budgets.progress import Progress

_EFFORT = 20_000  # entries to look at, beyond those for the size of the problem
_EFFORT_OF_CANDIDATE = 2.5
_EFFORT_OF_SEARCH = 3_000  # entries that take as long as a search that has nothing to do
_EFFORT_OF_SPLIT = 4_000
_MUCH = 3_000  # entries; less is searched faster than split
_FAR, _VERY_FAR = 30.0, 300.0
"""Where a limit holds for some groups only, mixtures are many, and a split parts only one of them.
A plan so many times farther than what was searched then calls for the other search"""
_AGAIN = 20  # how many times more entries call for another try to split
_BOTH_LOWER = 0.3
_ONE_LOWER = 10.0
"""A split is good if it lowers the bounds of both parts, or of one, by so much of what was
searched"""
_LEAST_ENTRIES, _MOST_ENTRIES = 20_000, 400_000
"""Of one search"""
_STEPS = 4  # of ``Work`` for one entry


class Branches:
    """The open parts of a problem."""

    def __init__(self, progress: Progress) -> None:
        flat, dual = progress.flat, progress.dual
        self.progress = progress
        self.effort = _EFFORT + int(_EFFORT_OF_CANDIDATE * len(flat.value))
        width = np.maximum.reduceat(flat.cost, flat.start[:-1], axis=1)
        self.like = np.empty(flat.groups, np.int64)
        self.like[np.lexsort((-width[1], -width[0]))] = np.arange(flat.groups)
        self.settled = -math.inf
        """The highest bound of a part that was left as good enough"""
        self.nested = bool((width.min(axis=1) == 0).any())
        root = Branch(flat, dual, np.arange(len(flat.value)), 0.0, progress.upper)
        self._open = [(-root.upper, 0, root)]
        self._count = 1

    def run(self) -> None:
        """Search until all parts are settled, or it gets too much."""
        progress = self.progress
        while self._open and not self._give_up():
            _, number, branch = heapq.heappop(self._open)
            if branch.upper <= progress.gain + progress.tolerance:
                self.settled = max(self.settled, branch.upper)
                self._open.clear()
                break
            if number and not branch.searched:
                self._first_plan(branch)
            if not self.nested and self._wants_split(branch) and self._split(branch):
                continue
            self._deepen(branch)
            if branch.upper > -math.inf:
                self._push(branch, number)
        self._conclude()

    def _give_up(self) -> bool:
        first = self._open[0][2]
        if self.effort <= 0 or first.stuck or self.progress.work.spent():
            return True
        if not self.nested or not first.searched:
            return False
        far = first.distance(self.progress.gain) / first.searched
        return far > (_FAR if first.looked_at > _MUCH else _VERY_FAR)

    def _push(self, branch: Branch, number: int) -> None:
        heapq.heappush(self._open, (-branch.upper, number, branch))

    def _first_plan(self, branch: Branch) -> None:
        plan = first_plan(branch.flat, branch.dual)
        if plan is not None:
            self.progress.take(branch.position[plan])

    def _wants_split(self, branch: Branch) -> bool:
        return branch.looked_at > max(_MUCH, _AGAIN * branch.refused)

    def _split(self, branch: Branch) -> bool:
        parts = branch.split(self.progress.gain)
        self.effort -= _EFFORT_OF_SPLIT
        if parts is None:
            branch.refused = branch.looked_at
            return False
        bound = branch.offset + branch.dual.slack
        fallen = [bound - part.offset - part.dual.slack for part in parts]
        fallen += [math.inf] * (2 - len(parts))
        both, one = _BOTH_LOWER * branch.searched, _ONE_LOWER * branch.searched
        if min(fallen) < both and max(fallen) < one:
            branch.refused = branch.looked_at
            return False
        for part in parts:
            self._push(part, self._count)
            self._count += 1
        return True

    def _deepen(self, branch: Branch) -> None:
        progress = self.progress
        target = progress.gain + progress.tolerance
        most = max(_LEAST_ENTRIES, min(_MOST_ENTRIES, self.effort))
        plan = branch.deepen(target, self.like, most, progress.work)
        self._note(branch)
        self.effort -= branch.looked_at + _EFFORT_OF_SEARCH
        progress.work.steps_left -= _STEPS * (branch.looked_at + _EFFORT_OF_SEARCH)
        if plan is not None:
            progress.take(plan)

    def _note(self, branch: Branch) -> None:
        progress, core = self.progress, branch.core
        if core:
            progress.core_groups, progress.core_candidates = core.levels, len(core.gain)
            progress.blurred = max(progress.blurred, core.grid.blurred)
            progress.rounding = max(progress.rounding, core.grid.rounding)
            progress.looked_at = max(progress.looked_at, branch.looked_at)

    def _conclude(self) -> None:
        """Write down what is proven."""
        progress = self.progress
        bounds = [part.upper for _, _, part in self._open]
        upper = max([self.settled, progress.gain, *bounds])
        progress.upper = min(progress.upper, upper)
        progress.branches = self._count
        if not self._open and upper == progress.gain:
            progress.proven = progress.tolerance == 0
