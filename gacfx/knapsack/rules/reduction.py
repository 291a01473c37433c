"""Reductions: a problem as one with fewer groups, and its solutions turned back.

``merge`` and ``multiply`` apply one; ``invert`` leads back. Several follow each other, and are
inverted in turn.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.limits import Label, Limit
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.solution import Solution

_UP = 1 + 2.0**-50
"""Sums of roundings are rounded themselves"""


@dataclass(frozen=True)
class Reduction:
    """A problem in which some groups became one, and the way back."""

    original: Problem
    problem: Problem
    """A joined group has the name of its first member"""
    members: tuple[tuple[int, ...], ...]
    """[groups of ``problem``] indices of the groups that each one stands for"""
    picks: tuple[IntArray, ...]
    """[groups of ``problem``] [members, candidates] index of each candidate in each member"""
    rounding: float = 0.0
    """Most value that rounding the sums of values takes from a plan, or gives to it"""

    def invert(self, solution: Solution) -> Solution:
        """A solution of ``problem`` as one of ``original``."""
        choice = [0] * len(self.original.groups)
        for members, picks, index in zip(self.members, self.picks, solution.choice, strict=True):
            for member, column in zip(members, picks[:, index].tolist(), strict=True):
                choice[member] = column
        values = _values(self.original, choice)
        joined = _values(self.problem, solution.choice)
        # The plan's own rounding is known; that of a better plan can be at worst ``rounding``. Both
        # sums are rounded for ``value``, so it is not their difference.
        drift = abs(math.fsum([*values, *(-value for value in joined)])) + self.rounding
        drift *= _UP
        value = math.fsum(values)
        return replace(
            solution,
            choice=tuple(choice),
            value=value,
            bound=value + solution.gap + drift,
            gap=solution.gap + drift,
            rounding_bound=solution.rounding_bound + drift,
            usable_budget=usable_budget(self.original),
        )

    expand = invert


def components(size: int, ties: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """0 .. size - 1 in sets, where whatever stands in one tie is in one set; in order."""
    parent = list(range(size))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for first, *others in ties:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    found: dict[int, list[int]] = {}
    for number in range(size):
        found.setdefault(root(number), []).append(number)
    return [tuple(members) for members in found.values()]


def joined_limits(
    problem: Problem, members: Sequence[tuple[int, ...]], picks: Sequence[IntArray]
) -> tuple[Limit, ...]:
    """The limits of ``problem`` for joined groups: their costs are the sums of their members'."""
    joined = []
    for limit in problem.limits:
        costs = {}
        for own, columns in zip(members, picks, strict=True):
            parts = [
                limit.costs[problem.groups[member].name][column]
                for member, column in zip(own, columns, strict=True)
                if problem.groups[member].name in limit.costs
            ]
            if parts:
                costs[problem.groups[own[0]].name] = np.sum(parts, axis=0)
        joined.append(Limit(limit.name, limit.most, costs))
    return tuple(joined)


def usable_budget(problem: Problem) -> int:
    """The largest total cost up to the budget that a multiple of the costs' quantum reaches."""
    least = sum(int(group.costs.min()) for group in problem.groups)
    steps = [np.gcd.reduce(group.costs - group.costs.min()) for group in problem.groups]
    quantum = int(np.gcd.reduce(steps)) if steps else 0
    return least + (problem.budget - least) // (quantum or 1) * (quantum or 1)


def labels_of(group: Group) -> Sequence[Label]:
    """[candidates] the labels of a group; the indices of its candidates if it has none."""
    return group.labels or range(len(group.costs))


def _values(problem: Problem, choice: Sequence[int]) -> list[float]:
    """[groups] what each chosen candidate is worth."""
    pairs = zip(problem.groups, choice, strict=True)
    return [float(group.values[index]) for group, index in pairs]
