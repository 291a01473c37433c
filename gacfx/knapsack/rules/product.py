"""Groups that implications tie become one group, whose candidates are the pairs they allow.

Exact, like ``merge``: what is left is a problem without rules, for the solvers that know none. Two
weights of a layer with 400 candidates each make 160,000 pairs; under one budget only those matter
that are worth more than every cheaper one, which are about 800. A rule that ties many groups makes
too many combinations; then an integer program is the way.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray, settled
from gacfx.knapsack.limits import Implies, Label
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules.reduction import Reduction, components, joined_limits, labels_of

_MOST_COMBINATIONS = 8_000_000  # of all classes; one class at a time is in memory
_MOST_CANDIDATES = 500_000  # of the problem that is left
_RANGE_BITS = 12  # 4096 ranges of costs

Rules = list[tuple[int, NDArray[np.bool_], int, NDArray[np.bool_]]]
"""(group, [candidates] whether it is meant, group that follows, [candidates] whether it may)"""


def multiply(problem: Problem) -> Reduction | None:
    """The problem without its implications; None: too many combinations, or a class without any.

    Args:
        problem: without ``SameLabel`` rules; ``merge`` takes those away.
    """
    rules = _rules(problem)
    classes = components(len(problem.groups), [(given, then) for given, _, then, _ in rules])
    sizes = [len(group.costs) for group in problem.groups]
    if sum(float(np.prod([float(sizes[i]) for i in found])) for found in classes) > (
        _MOST_COMBINATIONS
    ):
        return None
    named = {name for limit in problem.limits for name in limit.costs}
    groups, picks, left, rounding = [], [], 0, 0.0
    for members in classes:
        own = [problem.groups[i] for i in members]
        columns = _allowed(members, sizes, rules)
        if not columns.shape[1]:
            return None
        if len(members) > 1:
            rounding += _rounding(own, columns)
            if not named & {group.name for group in own}:
                columns = _rising(own, columns)
        left += columns.shape[1]
        if left > _MOST_CANDIDATES:
            return None
        groups.append(_group(own, columns))
        if not groups[-1].values.any():  # then what the sums were is lost
            rounding += float(np.abs(_sums(own, columns)[1]).max())
        picks.append(columns)
    left_over = Problem(tuple(groups), problem.budget, joined_limits(problem, classes, picks))
    return Reduction(problem, left_over, tuple(classes), tuple(picks), rounding)


def _rules(problem: Problem) -> Rules:
    number = {group.name: index for index, group in enumerate(problem.groups)}

    def meant(name: str, labels: Sequence[Label]) -> NDArray[np.bool_]:
        wanted = set(labels)
        return np.array([label in wanted for label in labels_of(problem.groups[number[name]])])

    return [
        (
            number[rule.group],
            meant(rule.group, rule.labels),
            number[rule.then_group],
            meant(rule.then_group, rule.then_labels),
        )
        for rule in problem.rules
        if isinstance(rule, Implies)
    ]


def _allowed(members: Sequence[int], sizes: list[int], rules: Rules) -> IntArray:
    """[members, combinations] index in each member, of every combination that keeps the rules."""
    shape = [sizes[index] for index in members]
    columns = np.indices(shape).reshape(len(members), -1)
    row = {index: place for place, index in enumerate(members)}
    keep = np.ones(columns.shape[1], np.bool_)
    for given, meant, then, may in rules:
        if given in row:
            keep &= ~meant[columns[row[given]]] | may[columns[row[then]]]
    return columns[:, keep]


def _rising(members: list[Group], columns: IntArray) -> IntArray:
    """The combinations that are worth more than every cheaper one, cheapest first."""
    cost, value = _sums(members, columns)
    few = np.flatnonzero(value > _best_below(cost, value))
    order = few[np.lexsort((-value[few], cost[few]))]
    best = np.maximum.accumulate(value[order])
    keep = np.ones(len(order), np.bool_)
    keep[1:] = value[order][1:] > best[:-1]
    return columns[:, order[keep]]


def _best_below(cost: IntArray, value: FloatArray) -> FloatArray:
    """[combinations] the best value among those that are cheaper by a range of costs at least.

    That drops nearly all without sorting them.
    """
    extra = cost - cost.min()
    place = extra >> max(0, int(extra.max()).bit_length() - _RANGE_BITS)
    best = np.full(1 + 2**_RANGE_BITS, -np.inf)
    np.maximum.at(best, 1 + place, value)
    below: FloatArray = np.maximum.accumulate(best)[place]
    return below


def _sums(members: list[Group], columns: IntArray) -> tuple[IntArray, FloatArray]:
    cost, value = np.zeros(columns.shape[1], np.int64), np.zeros(columns.shape[1])
    for group, column in zip(members, columns, strict=True):
        cost += group.costs[column]
        value += group.values[column]
    return cost, value


def _rounding(members: list[Group], columns: IntArray) -> float:
    """Most value that rounding takes from one combination, or gives to it."""
    total, off = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    for group, column in zip(members, columns, strict=True):
        value = group.values[column]
        new = total + value
        # Knuth's two-sum: the error of an addition is itself a float64.
        seen = new - total
        off += np.abs((total - (new - seen)) + (value - seen))
        total = new
    return float(off.max(initial=0.0))


def _group(members: list[Group], columns: IntArray) -> Group:
    if len(members) == 1 and columns.shape[1] == len(members[0].costs):
        return members[0]
    cost, value = _sums(members, columns)
    return Group(members[0].name, cost, settled(value))
