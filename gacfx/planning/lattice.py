"""The problem as flat arrays, with the cheapest plan paid in advance.

Two lossless reductions. Every plan pays the cheapest candidate of each group, so only the extra
cost above it counts. All extra costs are multiples of their greatest common divisor, the quantum,
so whatever the budget leaves below a multiple of it can never be spent.
"""

from dataclasses import dataclass

import numpy as np

from gacfx.errors import InfeasibleBudget
from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.problem import Problem


@dataclass(frozen=True)
class Flat:
    """All candidates of all groups, one group after the other, cheapest first.

    A *position* is an index into these arrays; group i owns ``start[i]:start[i + 1]``. Candidates
    that cost more than ``room`` beside the cheapest of all others are left out: no plan holds them.
    """

    start: IntArray
    """[groups + 1]"""
    cost: IntArray
    """[positions] cost above the cheapest candidate of the group, ascending in a group"""
    weight: FloatArray
    """[positions] ``cost`` as float64"""
    value: FloatArray
    """[positions] of equal costs the largest value comes first, then the lowest index"""
    origin: IntArray | None
    """[positions] index of the candidate in its group as it was given; None: position - start"""
    room: int
    """Budget left above the cheapest plan, a multiple of the quantum"""
    quantum: int
    usable_budget: int
    """``room`` plus the cost of the cheapest plan"""

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def sizes(self) -> IntArray:
        return self.start[1:] - self.start[:-1]

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [positions]: every candidate gets the number of its group."""
        return np.repeat(per_group, self.sizes)

    def index(self, position: IntArray) -> IntArray:
        """[groups] one position per group -> [groups] index of the candidate as it was given."""
        return position - self.start[:-1] if self.origin is None else self.origin[position]

    def owner(self, position: IntArray) -> IntArray:
        """The group that owns each position."""
        return np.searchsorted(self.start, position, side="right") - 1


def flatten(problem: Problem) -> Flat:
    """The flat form of ``problem``; linear time when candidates come sorted by cost.

    Raises:
        InfeasibleBudget: even the cheapest candidate of every group costs too much.
    """
    start = _starts([len(group.costs) for group in problem.groups])
    cost = np.concatenate([group.costs for group in problem.groups])
    value = np.concatenate([group.values for group in problem.groups])
    cheapest = np.minimum.reduceat(cost, start[:-1])
    needed = int(cheapest.sum())
    if needed > problem.budget:
        raise _infeasible(problem, needed)
    cost -= np.repeat(cheapest, np.diff(start))
    quantum = _quantum(problem)
    room = (problem.budget - needed) // quantum * quantum
    origin = None
    keep = _kept(start, cost, value, room)
    if keep is not None:
        group = np.repeat(np.arange(len(start) - 1), np.diff(start))[keep]
        origin = keep - start[group]
        start = np.searchsorted(group, np.arange(len(start)))
        cost, value = cost[keep], value[keep]
    return Flat(start, cost, cost.astype(np.float64), value, origin, room, quantum, needed + room)


def _starts(sizes: list[int]) -> IntArray:
    return np.append(0, np.cumsum(np.array(sizes, np.int64)))


def _quantum(problem: Problem) -> int:
    # Groups of one weight shape share a cost array; looking at each array once saves most of this.
    arrays = list({id(group.costs): group.costs for group in problem.groups}.values())
    start = _starts([len(array) for array in arrays])
    cost = np.concatenate(arrays)
    extra = cost - np.repeat(np.minimum.reduceat(cost, start[:-1]), np.diff(start))
    return int(np.gcd.reduce(extra)) or 1


def _kept(start: IntArray, cost: IntArray, value: FloatArray, room: int) -> IntArray | None:
    """Candidates that fit, by group, cost, falling value and index; None: all, as they are."""
    keep = None
    late = cost[1:] < cost[:-1]
    late |= (cost[1:] == cost[:-1]) & (value[1:] > value[:-1])
    late[start[1:-1] - 1] = False
    if late.any():
        keep = np.arange(len(cost))
        wrong = np.unique(np.searchsorted(start, np.flatnonzero(late), side="right") - 1)
        mixed = np.isin(np.repeat(np.arange(len(start) - 1), np.diff(start)), wrong)
        group = np.searchsorted(start, keep[mixed], side="right")
        keep[mixed] = keep[mixed][np.lexsort((-value[mixed], cost[mixed], group))]
    if cost.max() > room:
        keep = np.arange(len(cost)) if keep is None else keep
        keep = keep[cost[keep] <= room]
    return keep


def _infeasible(problem: Problem, needed: int) -> InfeasibleBudget:
    return InfeasibleBudget(
        f"the cheapest plan costs {needed}, which is {needed - problem.budget} over the budget of "
        f"{problem.budget}; allow at least {needed}, or offer cheaper candidates",
        needed=needed,
        budget=problem.budget,
    )
