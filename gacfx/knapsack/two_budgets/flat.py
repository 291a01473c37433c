"""A problem with one budget and one further limit as flat arrays, the cheapest paid in advance.

The budget is resource 0 and the limit is resource 1; both are treated alike. Two lossless
reductions for each: every plan pays the least cost of each group, so only what is above it counts;
and all of that is a multiple of its greatest common divisor, the quantum, so what the room leaves
below a multiple of it can never be spent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.problem import Problem


@dataclass(frozen=True)
class TwoFlat:
    """All candidates of all groups, one group after the other, in the order they were given.

    A *position* is an index into these arrays; group i owns ``start[i]:start[i + 1]``. Candidates
    that do not fit into one of the rooms beside the cheapest of all others are left out.
    """

    start: IntArray
    """[groups + 1]"""
    cost: IntArray
    """[2, positions] cost above the least of the group"""
    value: FloatArray
    """[positions]"""
    origin: IntArray | None
    """[positions] index of the candidate in its group as it was given; None: position - start"""
    room: tuple[int, int]
    """What budget and limit leave above the least costs, multiples of the quanta; if one is
    negative, nothing was left out"""
    least: tuple[int, int]
    """Sum of the least costs of all groups"""
    quantum: tuple[int, int]

    @property
    def closed(self) -> bool:
        """Some group has no candidate left, or the cheapest left pass a room: there is no plan."""
        if not self.sizes.all():
            return True
        least = np.minimum.reduceat(self.cost, self.start[:-1], axis=1).sum(axis=1)
        return bool((least > self.room).any())

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def sizes(self) -> IntArray:
        return self.start[1:] - self.start[:-1]

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [positions]: every candidate gets the number of its group."""
        return np.repeat(per_group, self.sizes)

    def owner(self, position: IntArray) -> IntArray:
        """The group that owns each position."""
        return np.searchsorted(self.start, position, side="right") - 1

    def index(self, position: IntArray) -> IntArray:
        """[groups] one position per group -> [groups] index of the candidate as it was given."""
        return position - self.start[:-1] if self.origin is None else self.origin[position]

    def positions(self, choice: Sequence[int]) -> IntArray:
        """The way back: [groups] indices as they were given -> positions."""
        if self.origin is None:
            first: IntArray = self.start[:-1] + np.array(choice)
            return first
        ends = pairwise(self.start.tolist())
        found = [
            begin + int(np.searchsorted(self.origin[begin:end], index))
            for (begin, end), index in zip(ends, choice, strict=True)
        ]
        return np.array(found)

    def left(self, position: IntArray) -> tuple[int, int]:
        """What a plan leaves of both rooms; negative where it spends too much."""
        spent = self.cost[:, position].sum(axis=1).tolist()
        return self.room[0] - spent[0], self.room[1] - spent[1]


def flatten_two(problem: Problem) -> TwoFlat:
    """The flat form of a problem with groups and exactly one limit."""
    arrays = [group.costs for group in problem.groups]
    others = other_costs(problem)
    start = np.append(0, np.cumsum([len(array) for array in arrays]))
    cost = np.stack([np.concatenate(arrays), np.concatenate(others)])
    value = np.concatenate([group.values for group in problem.groups])
    cheapest = np.minimum.reduceat(cost, start[:-1], axis=1)
    least = cheapest.sum(axis=1).tolist()
    cost -= np.repeat(cheapest, np.diff(start), axis=1)
    quanta = (_quantum(arrays), _quantum(others))
    most = problem.budget, problem.limits[0].most
    room = [(most[i] - least[i]) // quanta[i] * quanta[i] for i in (0, 1)]
    origin = None
    fits = (cost[0] <= room[0]) & (cost[1] <= room[1])
    if min(room) >= 0 and not fits.all():
        keep = np.flatnonzero(fits)
        group = np.searchsorted(start, keep, side="right") - 1
        origin = keep - start[group]
        start = np.searchsorted(group, np.arange(len(start)))
        cost, value = cost[:, keep], value[keep]
    return TwoFlat(start, cost, value, origin, (room[0], room[1]), (least[0], least[1]), quanta)


def other_costs(problem: Problem) -> list[IntArray]:
    """[groups] [candidates] what the candidates cost under the limit."""
    costs = problem.limits[0].costs
    sizes = {len(group.costs) for group in problem.groups if group.name not in costs}
    nothing = {size: np.zeros(size, np.int64) for size in sizes}
    for zeros in nothing.values():
        zeros.setflags(write=False)
    return [
        costs[group.name] if group.name in costs else nothing[len(group.costs)]
        for group in problem.groups
    ]


def _quantum(arrays: Sequence[IntArray]) -> int:
    # Groups of one weight shape share a cost array; looking at each array once saves most of this.
    seen = list({id(array): array for array in arrays}.values())
    start = np.append(0, np.cumsum([len(array) for array in seen]))[:-1]
    cost = np.concatenate(seen)
    extra = cost - np.repeat(np.minimum.reduceat(cost, start), [len(array) for array in seen])
    return int(np.gcd.reduce(extra)) or 1
