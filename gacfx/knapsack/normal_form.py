"""The normal form of a problem: flat sorted arrays, the cheapest plan paid in advance.

Lossless reductions. Every plan pays the least cost of each group, so only the extra cost above it
counts. All extra costs are multiples of their greatest common divisor, the quantum, so whatever the
budget leaves below a multiple of it can never be spent. Candidates that do not fit beside the
cheapest of all other groups are in no plan. And under one budget alone a candidate worth no more
than a cheaper one of its group is in no best plan (dominance), so what is left rises in both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.order import ends_of, stable_order
from gacfx.knapsack.problem import Problem

_PIECE = 2**15  # candidates; a few such arrays fit into the cache of a core
_PASSES = 3  # that drop what is worth no more than its neighbour, before all are compared


@dataclass(frozen=True)
class NormalForm:
    """Candidates of all groups, one group after the other, in each the cheapest first.

    A *position* is an index into these arrays; group i owns ``start[i]:start[i + 1]``. Budget and
    limits are *resources* 0, 1, 2, ...
    """

    start: IntArray
    """[groups + 1]"""
    cost: IntArray
    """[resources, positions] above the least of the group"""
    value: FloatArray
    """[positions]"""
    origin: NDArray[np.int32]
    """[positions] index of the candidate in its group as it was given"""
    room: tuple[int, ...]
    """[resources] what is left above the least costs, multiples of the quantum"""
    least: tuple[int, ...]
    """[resources] sum of the least costs of all groups"""
    quantum: tuple[int, ...]
    offered: int
    """Candidates of the problem, also those left out"""

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def usable_budget(self) -> int:
        return self.least[0] + self.room[0]

    @property
    def sizes(self) -> IntArray:
        return self.start[1:] - self.start[:-1]

    @property
    def closed(self) -> bool:
        """Some group has no candidate left, or the least costs left pass a room: no plan at all."""
        if not self.sizes.all():
            return True
        least = np.minimum.reduceat(self.cost, self.start[:-1], axis=1).sum(axis=1)
        return bool((least > self.room).any())

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(first, last) of the groups of each piece that is worked on at a time."""
        return pairwise(_cuts(self.start))

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [positions]: every candidate gets the number of its group."""
        return np.repeat(per_group, self.start[1:] - self.start[:-1])

    def owner(self, position: IntArray) -> IntArray:
        """The group that owns each position."""
        return np.searchsorted(self.start, position, side="right") - 1

    def positions(self, choice: Sequence[int]) -> IntArray:
        """[groups] indices as they were given -> positions; the way back from ``origin``."""
        hits = np.flatnonzero(self.origin == np.repeat(np.array(choice), self.sizes))
        return hits[np.searchsorted(hits, self.start[:-1])]

    def left(self, position: IntArray) -> tuple[int, ...]:
        """[resources] what a plan leaves; negative where it spends too much."""
        spent = self.cost[:, position].sum(axis=1).tolist()
        return tuple(room - cost for room, cost in zip(self.room, spent, strict=True))


def normal_form(problem: Problem) -> NormalForm:
    """The normal form of a problem with at least one group. Rules stay with the problem.

    Raises:
        InfeasibleBudget: the budget or a limit is below the sum of the least costs.
    """
    start = ends_of(np.array([len(group.costs) for group in problem.groups]))
    resources = _resources(problem)
    cheapest = np.array([[int(row.min()) for row in costs] for costs in resources])
    least = cheapest.sum(axis=1).tolist()
    most = [problem.budget, *(limit.most for limit in problem.limits)]
    _refuse_too_little(problem, least, most)
    spare = [allowed - paid for allowed, paid in zip(most, least, strict=True)]
    plain = len(resources) == 1 and not problem.rules
    # Filled piece by piece, so that little memory is touched besides.
    cost = np.empty((len(resources), start[-1]), np.int64)
    value, origin = np.empty(start[-1]), np.empty(start[-1], np.int32)
    sizes, quantum, end = [], np.zeros(len(resources), np.int64), 0
    for first, last in pairwise(_cuts(start)):
        ends = start[first : last + 1] - start[first]
        extra = np.stack([np.concatenate(costs[first:last]) for costs in resources])
        extra -= np.repeat(cheapest[:, first:last], np.diff(ends), axis=1)
        quantum = np.gcd(quantum, np.gcd.reduce(extra, axis=1))
        worth = np.concatenate([group.values for group in problem.groups[first:last]])
        piece = _Piece(ends, extra, worth, np.arange(len(worth))).sorted().fitting(spare)
        piece = piece.undominated() if plain else piece
        begin, end = end, end + len(piece.value)
        cost[:, begin:end], value[begin:end] = piece.cost, piece.value
        origin[begin:end] = piece.place - np.repeat(ends[:-1], np.diff(piece.start))
        sizes.append(np.diff(piece.start))
    steps = np.maximum(quantum, 1).tolist()
    return NormalForm(
        start=ends_of(np.concatenate(sizes)),
        cost=cost[:, :end],
        value=value[:end],
        origin=origin[:end],
        room=tuple(left // step * step for left, step in zip(spare, steps, strict=True)),
        least=tuple(least),
        quantum=tuple(steps),
        offered=int(start[-1]),
    )


@dataclass(frozen=True)
class _Piece:
    """Some groups: so few that all arrays stay in the cache."""

    start: IntArray
    """[groups + 1]"""
    cost: IntArray
    """[resources, candidates] above the least of the group"""
    value: FloatArray
    place: IntArray
    """[candidates] where each was before"""

    def only(self, kept: IntArray) -> "_Piece":
        """Some of the candidates, each group in one run as before."""
        start = np.searchsorted(kept, self.start)
        cost = np.take(self.cost, kept, axis=1)
        return _Piece(start, cost, self.value[kept], self.place[kept])

    def sorted(self) -> "_Piece":
        """The candidates of each group by rising cost; equals stay in order."""
        cost, groups = self.cost[0], len(self.start) - 1
        falls = cost[1:] < cost[:-1]
        falls[self.start[1:-1] - 1] = False
        if not falls.any():
            return self
        owner, span = np.repeat(np.arange(groups), np.diff(self.start)), int(cost.max()) + 1
        packs = groups * span < 2**62
        order = stable_order(owner * span + cost) if packs else np.lexsort((cost, owner))
        return replace(self.only(order), start=self.start)

    def fitting(self, spare: list[int]) -> "_Piece":
        """Those that can be paid beside the cheapest of all other groups."""
        fits = self.cost[0] <= spare[0]
        for row, most in zip(self.cost[1:], spare[1:], strict=True):
            fits &= row <= most
        return self if fits.all() else self.only(np.flatnonzero(fits))

    def undominated(self) -> "_Piece":
        """Those worth more than every one of their group that costs no more."""
        piece = self
        for _ in range(_PASSES):  # nearly all others are worth no more than their neighbour
            rises = np.append(True, piece.value[1:] > piece.value[:-1])
            rises[piece.start[:-1]] = True
            if rises.all():
                break
            piece = piece.only(np.flatnonzero(rises))
        else:
            owner = np.repeat(np.arange(len(self.start) - 1), np.diff(piece.start))
            piece = piece.only(records(piece.value, owner))
        dearer = np.append(piece.cost[0, 1:] > piece.cost[0, :-1], True)
        dearer[piece.start[1:] - 1] = True  # of equal costs the last is worth most
        return piece if dearer.all() else piece.only(np.flatnonzero(dearer))


def _cuts(start: IntArray) -> list[int]:
    """Where to cut the groups into pieces, and their number."""
    steps = start[:-1] // _PIECE
    return [*np.flatnonzero(np.append(True, steps[1:] > steps[:-1])).tolist(), len(steps)]


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


def _resources(problem: Problem) -> list[list[IntArray]]:
    """[resources] [groups] costs as they were given; groups that a limit does not name pay 0."""
    zeros = np.zeros(max(len(group.costs) for group in problem.groups), np.int64)
    rows = [[group.costs for group in problem.groups]]
    for limit in problem.limits:
        rows.append([limit.costs.get(g.name, zeros[: len(g.costs)]) for g in problem.groups])
    return rows


def _refuse_too_little(problem: Problem, least: list[int], most: list[int]) -> None:
    names = ["budget", *(f"limit {limit.name!r}" for limit in problem.limits)]
    for name, needed, allowed in zip(names, least, most, strict=True):
        if needed > allowed:
            raise InfeasibleBudget(
                f"the cheapest plan costs {needed}, which is {needed - allowed} over the {name} of "
                f"{allowed}; allow at least {needed}, or offer cheaper candidates",
                needed=needed,
                budget=allowed,
            )
