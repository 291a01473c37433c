"""Groups that must take one label become one group, so that the core solver can plan them.

Exact: a candidate of the merged group stands for the same label in every member; its cost, its
value and what it costs under every limit are the sums of theirs.
"""

import math

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import IntArray, settled
from gacfx.knapsack.limits import Implies, SameLabel
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules.reduction import Reduction, components, joined_limits, labels_of

__all__ = ["Merged", "labels_of", "merge"]

Merged = Reduction


def merge(problem: Problem) -> Reduction:
    """The problem with every class of ``SameLabel`` groups made one group.

    A merged group has the labels that all members have.

    Raises:
        PlanError: the groups of a rule have no label in common.
    """
    number = {group.name: index for index, group in enumerate(problem.groups)}
    ties = [
        [number[name] for name in rule.groups]
        for rule in problem.rules
        if isinstance(rule, SameLabel)
    ]
    classes = components(len(number), ties)
    groups, picks, rounding = [], [], 0.0
    for members in classes:
        group, columns, off = _merged(tuple(problem.groups[i] for i in members))
        groups.append(group)
        picks.append(columns)
        rounding += off
    home = {problem.groups[i].name: n for n, members in enumerate(classes) for i in members}
    moved = [
        _moved(rule, groups[home[rule.group]], groups[home[rule.then_group]])
        for rule in problem.rules
        if isinstance(rule, Implies)
    ]
    limits = joined_limits(problem, classes, picks) if ties else problem.limits
    rules = tuple(rule for rule in moved if rule is not None)
    merged = Problem(tuple(groups), problem.budget, limits, rules)
    return Reduction(problem, merged, tuple(classes), tuple(picks), rounding)


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
