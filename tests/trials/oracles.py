"""The plain truth about a small problem: all plans in exact arithmetic, and the textbook table."""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.limits import Implies, Label, SameLabel
from gacfx.knapsack.problem import Group, Problem

MOST_PLANS = 100_000
"""For brute force"""
MOST_CELLS = 300_000
"""For the table"""


def labels_of(group: Group) -> tuple[Label, ...]:
    return group.labels or tuple(range(len(group.costs)))


def keeps_all(problem: Problem, choice: Sequence[int]) -> bool:
    """The plan keeps the budget, every limit and every rule."""
    picks = {group.name: index for group, index in zip(problem.groups, choice, strict=True)}
    spent = [sum(int(group.costs[picks[group.name]]) for group in problem.groups)]
    spent += [sum(int(c[picks[name]]) for name, c in x.costs.items()) for x in problem.limits]
    most = [problem.budget, *(limit.most for limit in problem.limits)]
    label = {group.name: labels_of(group)[picks[group.name]] for group in problem.groups}
    for rule in problem.rules:
        if isinstance(rule, SameLabel):
            if len({label[name] for name in rule.groups}) > 1:
                return False
        elif label[rule.group] in rule.labels and label[rule.then_group] not in rule.then_labels:
            return False
    return all(cost <= allowed for cost, allowed in zip(spent, most, strict=True))


def plans(problem: Problem) -> int:
    """How many plans there are, legal or not."""
    return prod(len(group.costs) for group in problem.groups)


def exact_value(problem: Problem, choice: Sequence[int]) -> Fraction:
    """What a plan is worth."""
    pairs = zip(problem.groups, choice, strict=True)
    return sum((Fraction(float(group.values[index])) for group, index in pairs), Fraction(0))


def best_of_all(problem: Problem) -> Fraction | None:
    """The largest value of all legal plans; None if there is no legal plan."""
    allowed = _allowed(problem)
    rough = _every_sum([group.values for group in problem.groups])
    if not allowed.any():
        return None
    # Only plans whose rounded sums come near the largest are added up exactly.
    dust = 2.0**-46 * sum(float(np.abs(group.values).max()) for group in problem.groups)
    close = np.nonzero(allowed & (rough >= rough[allowed].max() - dust))
    whole, bits = _whole_values(problem.groups)
    parts = [row[index] for row, index in zip(whole, close, strict=True)]
    return Fraction(max(np.sum(parts, axis=0)), 1 << bits)


def _allowed(problem: Problem) -> NDArray[np.bool_]:
    """[candidates of group 0, of group 1, ...] whether the plan keeps everything."""
    groups = problem.groups
    allowed = _every_sum([group.costs for group in groups]) <= problem.budget
    for limit in problem.limits:
        none = [np.zeros(len(group.costs), np.int64) for group in groups]
        rows = [limit.costs.get(g.name, zeros) for g, zeros in zip(groups, none, strict=True)]
        allowed &= _every_sum(rows) <= limit.most
    axis = {group.name: number for number, group in enumerate(groups)}
    labels = {group.name: labels_of(group) for group in groups}
    for rule in problem.rules:
        if isinstance(rule, Implies):
            meant = [label in rule.labels for label in labels[rule.group]]
            breaks = [label not in rule.then_labels for label in labels[rule.then_group]]
            given = _along(np.array(meant), axis[rule.group], len(groups))
            allowed &= ~(given & _along(np.array(breaks), axis[rule.then_group], len(groups)))
            continue
        first, *others = rule.groups
        number = {label: place for place, label in enumerate(labels[first])}
        own = _along(np.arange(len(number)), axis[first], len(groups))
        for name in others:
            seen = np.array([number.get(label, -1) for label in labels[name]])
            allowed &= own == _along(seen, axis[name], len(groups))
    return allowed


def _along(row: NDArray[Any], axis: int, axes: int) -> NDArray[Any]:
    return row.reshape([-1 if number == axis else 1 for number in range(axes)])


def _every_sum(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return reduce(np.add.outer, rows, np.zeros((), rows[0].dtype if rows else np.int64))


def _whole_values(groups: Sequence[Group]) -> tuple[list[NDArray[np.object_]], int]:
    """Values in units of ``2 ** -bits`` as Python ints, and the bits."""
    ratios = [[value.as_integer_ratio() for value in g.values.tolist()] for g in groups]
    bits = max((below.bit_length() - 1 for row in ratios for _, below in row), default=0)
    rows = []
    for row in ratios:
        whole = np.empty(len(row), np.object_)
        whole[:] = [above << (bits - below.bit_length() + 1) for above, below in row]
        rows.append(whole)
    return rows, bits


def cells(problem: Problem) -> int:
    """How long a row of ``textbook_dp`` is."""
    return min(problem.budget, sum(int(g.costs.max()) for g in problem.groups)) // _unit(problem)


def textbook_dp(problem: Problem) -> float:
    """Best value by the recurrence over every budget, exactly one candidate per group.

    For one budget and no rules; -inf if no plan fits.
    """
    unit = _unit(problem)
    table = np.full(cells(problem) + 1, -np.inf)
    table[0] = 0
    for group in problem.groups:
        new = np.full(len(table), -np.inf)
        for cost, value in zip((group.costs // unit).tolist(), group.values.tolist(), strict=True):
            if cost < len(table):
                np.maximum(new[cost:], table[: len(table) - cost] + value, out=new[cost:])
        table = new
    return float(table.max())


def _unit(problem: Problem) -> int:
    return int(np.gcd.reduce(np.concatenate([group.costs for group in problem.groups]))) or 1
