"""Where a wanted size d* falls among the candidates of its group.

A compressor would take d* by itself: a float per group, such as rank 107.3. Candidates are placed
beside it by their labels: a rank stands at its own number, and "dense" at the rank that would cost
as much, which for a low-rank pair is the break-even rank.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import FloatArray
from gacfx.knapsack.problem import Group, Problem

DENSE = "dense"
"""Label of the candidate that keeps the weight as it is"""


def floor_choice(problem: Problem, wanted: Mapping[str, float]) -> list[int]:
    """[groups] index of the largest candidate up to d*, or of the smallest if all are larger.

    Raises:
        PlanError: a d* or a label is missing or malformed; names the group.
    """
    return _choice(problem, wanted, _floor)


def nearest_choice(problem: Problem, wanted: Mapping[str, float]) -> list[int]:
    """[groups] index of the candidate nearest to d*.

    Halfway between two multiples of their distance it is the even one, as in ``round``; halfway
    between any other two it is the lower.

    Raises:
        PlanError: a d* or a label is missing or malformed; names the group.
    """
    return _choice(problem, wanted, _nearest)


_Rule = Callable[[FloatArray, float], int]


def _choice(problem: Problem, wanted: Mapping[str, float], rule: _Rule) -> list[int]:
    missing = [group.name for group in problem.groups if group.name not in wanted]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PlanError(
            f"wanted: no size for {', '.join(map(repr, missing[:3]))}{more}; "
            "give the d* of every group, or take a solver that needs none (--solver core)"
        )
    choice = []
    for group in problem.groups:
        size = _size(group.name, wanted[group.name])
        place = np.array(_places(group))
        order = np.argsort(place, kind="stable")
        choice.append(int(order[rule(place[order], size)]))
    return choice


def _size(name: str, size: object) -> float:
    if isinstance(size, bool) or not isinstance(size, Real) or not 0 <= float(size) < math.inf:
        raise PlanError(f"group {name!r}: wanted size {size!r} is not a finite number >= 0")
    return float(size)


def _places(group: Group) -> list[float]:
    """[candidates] the rank of each; for "dense" the one that costs as much."""
    ranks = [label for label in group.labels if isinstance(label, int)]
    strange = [label for label in group.labels if isinstance(label, str) and label != DENSE]
    if strange or not group.labels:
        what = f"label {strange[0]!r}" if strange else "no labels"
        raise PlanError(
            f"group {group.name!r}: {what}; to place a wanted size among them candidates need "
            f'labels that are ranks (int) or "{DENSE}"'
        )
    top = max(ranks, default=0)
    top_cost = int(group.costs[group.labels.index(top)]) if ranks else 0
    return [
        float(label) if isinstance(label, int) else _as_rank(int(cost), top, top_cost)
        for label, cost in zip(group.labels, group.costs, strict=True)
    ]


def _as_rank(cost: int, top: int, top_cost: int) -> float:
    """The rank of this cost by the rule of three; beyond all ranks if they cost nothing."""
    return cost * top / top_cost if top_cost else math.inf


def _floor(place: FloatArray, size: float) -> int:
    return max(int(np.searchsorted(place, size, side="right")) - 1, 0)


def _nearest(place: FloatArray, size: float) -> int:
    above = int(np.searchsorted(place, size))
    if above in (0, len(place)):
        return min(above, len(place) - 1)
    low, high = float(place[above - 1]), float(place[above])
    if size - low != high - size:
        return above if high - size < size - low else above - 1
    return above if low / (high - low) % 2 == 1 else above - 1
