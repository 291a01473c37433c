"""The dynamic program of GAC-v2 in its exact form: the best value for every cost, group by group.

    D[0][0] = 0,  D[0][b > 0] = -inf
    D[i][b] = max over j with w_ij <= b of  D[i-1][b - w_ij] + v_ij

Costs are counted on the lossless lattice: above the cheapest candidate of the group, in quanta.
Unlike Algorithm 1 as printed, every group takes exactly one candidate, the maximum is over all of
them, and no cost is rounded.

It is an oracle and a baseline: ``core.solve`` gives the same value sooner, by ten times on a small
table and by thousands on a large one, because it never searches most of the candidates.
"""

import math
import time
from dataclasses import dataclass

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import refuse_extras
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.normal_form import NormalForm, normal_form
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.paper.method import finished
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution

MOST_CELLS = 2**25
"""Cells held at a time; 256 MiB of float64"""
_GRID_BITS = 50  # sums of whole numbers below 2**53 are exact in float64


def solve_dp(problem: Problem, *, limit_cells: int = MOST_CELLS) -> Solution:
    """The most valuable plan within the budget, by the textbook recurrence; status "optimal".

    Of equally valuable plans the cheapest comes back; of those, the one whose last group takes its
    cheapest candidate, then its lowest index, and so on to the first group. Values are put on a
    grid of 2**50 steps, which makes every sum exact; what that can hide is ``rounding_bound``.

    If the whole table would pass ``limit_cells``, every few rows are kept and the rows between
    them computed a second time on the way back.

    Args:
        problem: groups and budget.
        limit_cells: most cells of the table to hold at a time, 8 bytes each.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: the lattice is too fine for ``limit_cells`` (nothing was allocated then), or
            the problem has further limits or rules.
    """
    begin = time.perf_counter()
    refuse_extras(problem, "the dynamic program")
    check_limit(limit_cells)
    if not problem.groups:
        return solve(problem)
    form = normal_form(problem)
    stride = _stride(form, limit_cells)
    levels, rounding = _levels(form)
    position, states = _search(levels, form.room[0] // form.quantum[0], stride)
    choice = form.origin[form.start[:-1] + np.array(position)].tolist()
    return finished(problem, form, choice, begin, rounding=rounding, states=states)


def check_limit(limit_cells: int) -> None:
    """Nothing if ``limit_cells`` is a whole number above 0.

    Raises:
        PlanError: it is not.
    """
    if type(limit_cells) is not int or limit_cells < 1:
        raise PlanError(f"limit_cells {limit_cells!r}: must be an int of at least 1")


def _stride(form: NormalForm, limit_cells: int) -> int:
    """Every how many groups a row is kept: 1 if all fit, else the square root of the groups."""
    most = np.maximum.reduceat(form.cost[0], form.start[:-1]) // form.quantum[0]
    longest = min(form.room[0] // form.quantum[0], int(most.sum())) + 1
    if (form.groups + 2) * longest <= limit_cells:
        return 1
    stride = math.isqrt(form.groups)
    needed = (form.groups // stride + stride + 3) * longest
    if needed > limit_cells:
        raise PlanError(
            f"the table of {form.groups:,} groups and {longest:,} costs needs {needed:,} cells of "
            f"8 bytes at a time, and limit_cells is {limit_cells:,}; take the exact solver that "
            "needs no table (--solver core, planning.solve), or offer fewer sizes"
        )
    return stride


@dataclass(frozen=True)
class _Level:
    """The candidates of one group, cheapest first."""

    weight: IntArray
    """[candidates] quanta above the cheapest"""
    gain: FloatArray
    """[candidates] whole grid steps above the least valuable"""


def _levels(form: NormalForm) -> tuple[list[_Level], float]:
    """One level per group, and the most value that the grid can hide."""
    least = form.spread(np.minimum.reduceat(form.value, form.start[:-1]))
    gain = form.value - least
    # A difference is exact if and only if it gives back both of its sides.
    exact = np.array_equal(form.value - gain, least) and np.array_equal(gain + least, form.value)
    top = float(np.maximum.reduceat(gain, form.start[:-1]).sum())
    exponent = _GRID_BITS - math.frexp(top or 1.0)[1]
    fine = np.ldexp(gain, exponent)
    whole = np.rint(fine)
    weight = form.cost[0] // form.quantum[0]
    cuts = form.start[1:-1]
    pairs = zip(np.split(weight, cuts), np.split(whole, cuts), strict=True)
    # Half a step per candidate in each of two plans, and one for the rounded differences.
    hidden = math.ldexp(form.groups + 1.0, -exponent)
    lossless = exact and np.array_equal(fine, whole)
    return [_Level(*pair) for pair in pairs], 0.0 if lossless else hidden


def _search(levels: list[_Level], capacity: int, stride: int) -> tuple[list[int], int]:
    """The candidate that each group takes, and the length of the last row."""
    row = np.zeros(1)  # D[0][0] = 0; a row ends where no plan can cost more
    kept = []
    for number, level in enumerate(levels):
        if number % stride == 0:
            kept.append(row)
        row = _next_row(row, level, capacity)
    # The first of equal maxima is the cheapest plan.
    states, cost = len(row), int(row.argmax())
    picks: list[int] = []
    for block in reversed(range(len(kept))):
        part = levels[block * stride : (block + 1) * stride]
        rows = [kept.pop()]
        for level in part[:-1]:
            rows.append(_next_row(rows[-1], level, capacity))
        for level in reversed(part):
            pick = _taken(rows.pop(), level, cost)
            cost -= int(level.weight[pick])
            picks.append(pick)
    return picks[::-1], states


def _next_row(row: FloatArray, level: _Level, capacity: int) -> FloatArray:
    """[costs] D[i] from D[i-1]: exactly one candidate of the group joins every plan."""
    new = np.full(min(capacity + 1, len(row) + int(level.weight[-1])), -np.inf)
    joined = np.empty_like(row)
    for weight, gain in zip(level.weight.tolist(), level.gain.tolist(), strict=True):
        target = new[weight : weight + len(row)]
        np.add(row[: len(target)], gain, out=joined[: len(target)])
        np.maximum(target, joined[: len(target)], out=target)
    return new


def _taken(row: FloatArray, level: _Level, cost: int) -> int:
    """Which candidate makes the best plan of exactly ``cost``; the first of equals."""
    before = cost - level.weight
    legal = (before >= 0) & (before < len(row))
    total = np.full(len(before), -np.inf)
    total[legal] = row[before[legal]] + level.gain[legal]
    return int(total.argmax())
