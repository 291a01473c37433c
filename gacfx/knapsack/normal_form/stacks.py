"""Stacks: all groups of a problem in a few two-dimensional arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gacfx.knapsack.arrays import LARGEST_COST, FloatArray, IntArray
from gacfx.knapsack.group import Group

_MANY = 16  # lengths; beyond, groups of similar length share a stack
_SIMILAR = 1.4  # the longest of a stack over the shortest


@dataclass(frozen=True)
class Stack:
    """Groups of equal or similar length, a row each, with candidates as they were given."""

    member: IntArray
    """[rows] the group of each row, ascending"""
    costs: IntArray
    """[1 or rows, columns]; one row if all groups share it"""
    values: FloatArray
    """[rows, columns]"""
    size: IntArray | None
    """[rows] candidates of the group; columns from there on cost too much for any budget, each more
    than the one before. None: all columns"""

    @cached_property
    def is_sorted(self) -> bool:
        """Every row rises, without ties."""
        return bool((self.costs[:, 1:] > self.costs[:, :-1]).all())

    @cached_property
    def least(self) -> IntArray:
        """[1 or rows, 1] the cheapest of each row."""
        if self.is_sorted:
            return self.costs[:, :1]
        cheapest: IntArray = self.costs.min(axis=1, keepdims=True)
        return cheapest

    @property
    def candidates(self) -> int:
        return self.values.size if self.size is None else int(self.size.sum())


def stacks(groups: Sequence[Group]) -> list[Stack]:
    """The stacks of all groups."""
    by_length: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        by_length.setdefault(len(group.values), []).append(number)
    if len(by_length) <= _MANY:
        return [_even(groups, members) for members in by_length.values()]
    return [
        _even(groups, by_length[lengths[0]])
        if len(lengths) == 1
        else _uneven(groups, sorted(number for length in lengths for number in by_length[length]))
        for lengths in _similar(sorted(by_length))
    ]


def _similar(lengths: list[int]) -> list[list[int]]:
    """Rising ``lengths`` in parts, none much longer than the first of its part."""
    parts: list[list[int]] = []
    for length in lengths:
        if parts and length <= parts[-1][0] * _SIMILAR:
            parts[-1].append(length)
        else:
            parts.append([length])
    return parts


def _even(groups: Sequence[Group], members: list[int]) -> Stack:
    """Groups of one length."""
    costs = [groups[number].costs for number in members]
    values = np.concatenate([groups[number].values for number in members])
    shared = all(row is costs[0] for row in costs)
    rows = costs[0] if shared else np.concatenate(costs)
    return Stack(
        np.array(members),
        rows.reshape(1 if shared else len(members), -1),
        values.reshape(len(members), -1),
        None,
    )


def _uneven(groups: Sequence[Group], members: list[int]) -> Stack:
    """Groups of different lengths, filled up to the longest with what no budget can pay."""
    size = np.array([len(groups[number].values) for number in members])
    columns = int(size.max())
    costs = np.tile(LARGEST_COST + np.arange(columns), (len(members), 1))
    values = np.zeros((len(members), columns))
    for row, number in enumerate(members):
        costs[row, : size[row]] = groups[number].costs
        values[row, : size[row]] = groups[number].values
    return Stack(np.array(members), costs, values, size)
