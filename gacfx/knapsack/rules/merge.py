"""Groups that must take one label become one group, so that the core solver can plan them.

Exact: a candidate of the merged group stands for the same label in every member; its cost, its
value and what it costs under every limit are the sums of theirs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import IntArray, settled
from gacfx.knapsack.limits import Implies, Label, Limit, SameLabel
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.solution import Solution

_UP = 1 + 2.0**-50
"""Sums of roundings are rounded themselves"""


@dataclass(frozen=True)
class Merged:
    """A problem without ``SameLabel`` rules, and the way back."""

    original: Problem
    problem: Problem
    """A merged group has the name of its first member and the labels that all members have"""
    members: tuple[tuple[int, ...], ...]
    """[merged groups] indices of the groups that each one stands for"""
    picks: tuple[IntArray, ...]
    """[merged groups] [members, candidates] index of each candidate in each member"""
    rounding: float = 0.0
    """Most value that rounding the sums of values takes from a plan, or gives to it"""

    def expand(self, solution: Solution) -> Solution:
        """The solution of the merged problem as one of the original."""
        choice = [0] * len(self.original.groups)
        for members, picks, index in zip(self.members, self.picks, solution.choice, strict=True):
            for member, column in zip(members, picks[:, index].tolist(), strict=True):
                choice[member] = column
        values = _values(self.original, choice)
        merged = _values(self.problem, solution.choice)
        # The plan's own rounding is known; that of a better plan can be at worst ``rounding``. Both
        # sums are rounded for ``value``, so it is not their difference.
        drift = abs(math.fsum([*values, *(-value for value in merged)])) + self.rounding
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


def merge(problem: Problem) -> Merged:
    """The problem with every class of ``SameLabel`` groups made one group.

    Raises:
        PlanError: the groups of a rule have no label in common.
    """
    classes = same_label_classes(problem)
    groups, picks, rounding = [], [], 0.0
    for members in classes:
        group, columns, off = _merged(tuple(problem.groups[i] for i in members))
        groups.append(group)
        picks.append(columns)
        rounding += off
    home = {problem.groups[i].name: n for n, members in enumerate(classes) for i in members}
    limits = tuple(_limit(limit, problem, classes, picks, groups) for limit in problem.limits)
    moved = [
        _moved(rule, groups[home[rule.group]], groups[home[rule.then_group]])
        for rule in problem.rules
        if isinstance(rule, Implies)
    ]
    rules = tuple(rule for rule in moved if rule is not None)
    merged = Problem(tuple(groups), problem.budget, limits, rules)
    return Merged(problem, merged, tuple(classes), tuple(picks), rounding)


def same_label_classes(problem: Problem) -> list[tuple[int, ...]]:
    """Groups that ``SameLabel`` rules tie together, directly or through others, in order."""
    number = {group.name: index for index, group in enumerate(problem.groups)}
    class_of = list(range(len(problem.groups)))
    for rule in problem.rules:
        if isinstance(rule, SameLabel):
            tied = {class_of[number[name]] for name in rule.groups}
            class_of = [min(tied) if found in tied else found for found in class_of]
    members: dict[int, list[int]] = {}
    for index, found in enumerate(class_of):
        members.setdefault(found, []).append(index)
    return [tuple(found) for found in members.values()]


def usable_budget(problem: Problem) -> int:
    """The largest total cost up to the budget that a multiple of the costs' quantum reaches."""
    arrays = list({id(group.costs): group.costs for group in problem.groups}.values())
    least = sum(int(group.costs.min()) for group in problem.groups)
    steps = [np.gcd.reduce(array - array.min()) for array in arrays]
    quantum = int(np.gcd.reduce(steps)) if steps else 0
    return least + (problem.budget - least) // (quantum or 1) * (quantum or 1)


def labels_of(group: Group) -> Sequence[Label]:
    """[candidates] the labels of a group; the indices of its candidates if it has none."""
    return group.labels or range(len(group.costs))


def _values(problem: Problem, choice: Sequence[int]) -> list[float]:
    """[groups] what each chosen candidate is worth."""
    pairs = zip(problem.groups, choice, strict=True)
    return [float(group.values[index]) for group, index in pairs]


def _merged(members: tuple[Group, ...]) -> tuple[Group, IntArray, float]:
    """(group of the common labels, [members, candidates] indices in the members, rounding)."""
    first = members[0]
    if len(members) == 1:
        return first, np.arange(len(first.costs))[None], 0.0
    places = [{label: place for place, label in enumerate(labels_of(group))} for group in members]
    common = tuple(label for label in labels_of(first) if all(label in known for known in places))
    if not common:
        names = ", ".join(repr(group.name) for group in members)
        raise PlanError(
            f"groups {names} must take one label, but have none in common; give them the same "
            "candidates, or leave one out of the rule"
        )
    columns = np.array([[known[label] for label in common] for known in places])
    parts = list(zip(members, columns, strict=True))
    costs = np.sum([group.costs[column] for group, column in parts], axis=0)
    rows = list(zip(*(group.values[column].tolist() for group, column in parts), strict=True))
    values = settled(np.array([math.fsum(row) for row in rows]))
    pairs = zip(rows, values.tolist(), strict=True)
    off = max(abs(math.fsum((*row, -value))) for row, value in pairs)
    return Group(first.name, costs, values, common), columns, off


def _moved(rule: Implies, group: Group, then: Group) -> Implies | None:
    """The rule about the merged groups, whose labels are fewer; None if it can never apply."""
    known, then_known = set(labels_of(group)), set(labels_of(then))
    labels = tuple(label for label in rule.labels if label in known)
    then_labels = tuple(label for label in rule.then_labels if label in then_known)
    return Implies(group.name, labels, then.name, then_labels) if labels else None


def _limit(
    limit: Limit,
    problem: Problem,
    classes: list[tuple[int, ...]],
    picks: list[IntArray],
    groups: list[Group],
) -> Limit:
    costs = {}
    for members, columns, group in zip(classes, picks, groups, strict=True):
        parts = [
            limit.costs[problem.groups[member].name][column]
            for member, column in zip(members, columns, strict=True)
            if problem.groups[member].name in limit.costs
        ]
        if parts:
            costs[group.name] = np.sum(parts, axis=0)
    return Limit(limit.name, limit.most, costs)
