"""A problem as flat arrays for integer programs: one row of costs for every budget.

The budget and all limits are *resources*. Of each resource every plan pays at least the cheapest
candidate of every group, so only the extra cost above it counts, in steps of the greatest common
divisor of all extras. That is lossless, and keeps the numbers of the program small and whole.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Implies, Label
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.rules.merge import labels_of

Link = tuple[IntArray, IntArray]
"""Positions (if, then): a plan that holds one of the first holds one of the second"""


@dataclass(frozen=True)
class Table:
    """Candidates of all groups, one group after the other; a *position* is an index into them.

    Candidates that fit in no plan are left out: those over a resource beside the cheapest of all
    other groups.
    """

    start: IntArray
    """[groups + 1] group i owns the positions ``start[i]:start[i + 1]``; it may own none"""
    index: IntArray
    """[positions] index of the candidate in its group"""
    value: FloatArray
    """[positions]"""
    cost: IntArray
    """[resources, positions] quanta above the cheapest of the group; resource 0 is the budget"""
    room: IntArray
    """[resources] quanta left above the cheapest plan"""
    quantum: IntArray
    """[resources] units of cost in one quantum"""
    links: tuple[Link, ...]

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def owner(self) -> IntArray:
        """[positions] the group of each position."""
        owner: IntArray = np.repeat(np.arange(self.groups), np.diff(self.start))
        return owner

    @property
    def empty(self) -> bool:
        """A group has no candidate left, so there is no plan."""
        return bool((np.diff(self.start) == 0).any())

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [positions]: every candidate gets the number of its group."""
        return np.repeat(per_group, np.diff(self.start))

    def over(self, position: IntArray) -> IntArray:
        """[resources] how many quanta a plan is over each resource; 0 or less: it fits."""
        spent: IntArray = self.cost[:, position].sum(axis=1)
        return spent - self.room

    def broken(self, position: IntArray) -> int:
        """How many links a plan breaks."""
        held = np.zeros(len(self.value), np.bool_)
        held[position] = True
        return sum(bool(held[given].any() and not held[then].any()) for given, then in self.links)


def tabulate(problem: Problem) -> Table:
    """The table of a problem with at least one group and no ``SameLabel`` rule.

    Raises:
        InfeasibleBudget: the budget or a limit is too small, whatever the others are.
    """
    sizes = np.array([len(group.costs) for group in problem.groups], np.int64)
    start = np.append(0, np.cumsum(sizes))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    cost = np.stack([_row(problem, start, number) for number in range(1 + len(problem.limits))])
    cheapest = np.minimum.reduceat(cost, start[:-1], axis=1)
    most = np.array([problem.budget, *(limit.most for limit in problem.limits)])
    room = most - cheapest.sum(axis=1)
    _refuse_too_little(problem, room)
    cost -= cheapest[:, owner]
    keep = (cost <= room[:, None]).all(axis=0) & ~_barred(problem, start)
    cost = cost[:, keep]
    quantum = np.maximum(np.gcd.reduce(cost, axis=1), 1)
    return Table(
        start=np.append(0, np.cumsum(np.bincount(owner[keep], minlength=len(sizes)))),
        index=(np.arange(len(owner)) - start[owner])[keep],
        value=np.concatenate([group.values for group in problem.groups])[keep],
        cost=cost // quantum[:, None],
        room=room // quantum,
        quantum=quantum,
        links=_links(problem, start, keep),
    )


def _row(problem: Problem, start: IntArray, number: int) -> IntArray:
    """[candidates] costs under resource ``number``; groups that a limit does not name pay 0."""
    if number == 0:
        return np.concatenate([group.costs for group in problem.groups])
    row = np.zeros(start[-1], np.int64)
    limit = problem.limits[number - 1]
    for group, begin, end in zip(problem.groups, start[:-1], start[1:], strict=True):
        if group.name in limit.costs:
            row[begin:end] = limit.costs[group.name]
    return row


def _refuse_too_little(problem: Problem, room: IntArray) -> None:
    names = ["budget", *(f"limit {limit.name!r}" for limit in problem.limits)]
    most = [problem.budget, *(limit.most for limit in problem.limits)]
    for name, allowed, left in zip(names, most, room.tolist(), strict=True):
        if left < 0:
            raise InfeasibleBudget(
                f"{name}: the cheapest plan costs {allowed - left}, which is {-left} over the "
                f"{allowed} allowed; allow at least {allowed - left}, or offer cheaper candidates",
                needed=allowed - left,
                budget=allowed,
            )


def _barred(problem: Problem, start: IntArray) -> NDArray[np.bool_]:
    """[candidates] whether a rule about one group alone forbids it."""
    barred = np.zeros(start[-1], np.bool_)
    for given, then, rule in _implications(problem, start):
        if rule.group == rule.then_group or not len(then):
            barred[np.setdiff1d(given, then)] = True
    return barred


def _links(problem: Problem, start: IntArray, keep: NDArray[np.bool_]) -> tuple[Link, ...]:
    """Rules between two groups, in positions of what is kept."""
    position = np.cumsum(keep) - 1
    return tuple(
        (position[given[keep[given]]], position[then[keep[then]]])
        for given, then, rule in _implications(problem, start)
        if rule.group != rule.then_group and len(then) and keep[given].any()
    )


def _implications(problem: Problem, start: IntArray) -> list[tuple[IntArray, IntArray, Implies]]:
    number = {group.name: place for place, group in enumerate(problem.groups)}

    def places(name: str, labels: tuple[Label, ...]) -> IntArray:
        group = problem.groups[number[name]]
        place_of = {label: place for place, label in enumerate(labels_of(group))}
        found = sorted({place_of[label] for label in labels})
        first = int(start[number[name]])
        return np.array([first + place for place in found], np.int64)

    return [
        (places(rule.group, rule.labels), places(rule.then_group, rule.then_labels), rule)
        for rule in problem.rules
        if isinstance(rule, Implies)
    ]
