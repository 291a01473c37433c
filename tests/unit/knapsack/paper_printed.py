"""Algorithm 1 of GAC-v2 letter by letter. WRONG ON PURPOSE: never plan with it.

    6:  B' <- B / u
    7:  D[0..n][0..B'] <- -inf;  D[0][0] <- 0
    8:  for i = 1 to n
    9:    for each d_ij in C_i
    10:     w'_ij <- |W_i(d_ij)| / u
    11:     for b = w'_ij to B'
    12:       D[i][b] <- max{ D[i-1][b],  D[i-1][b - w'_ij] + v_ij }
    16: backtrack from argmax_b D[n][b]

Its faults, all reproduced here so that tests and the documentation can show them:

1.  Line 12 carries ``D[i-1][b]`` over, so a group may take nothing.
2.  Line 12 leaves ``D[i][b]`` itself out, so a later candidate overwrites a better earlier one.
3.  ``u = 8 * M_min`` belongs to pruning; the step of a low-rank pair is ``8 * (m + n)``.
4.  Lines 6 and 10 do not say how ``/ u`` rounds; two of the three ways overrun the budget, the
    third wastes it.
5.  The table begins at 0 and not at the cheapest plan: for Llama-3-8B and a window of eight ranks
    it is 724 thousand columns wide, where 12 thousand are to be decided.
6.  Line 16 takes the argmax even if every entry is -inf.

``dp.solve_dp`` is the same recurrence without them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import refuse_extras
from gacfx.knapsack.arrays import LARGEST_COST, FloatArray, IntArray
from gacfx.knapsack.paper.dp import check_limit
from gacfx.knapsack.problem import Group, Problem

Rounding = Literal["floor", "nearest", "ceil"]

MOST_CELLS = 2**27
"""Cells of the choice table; 512 MiB of int32"""
_NOTHING = -1


@dataclass(frozen=True)
class Printed:
    """What the printed algorithm returns. Not a plan: groups may be left without a candidate."""

    choice: tuple[int | None, ...]
    """[groups] index into the candidates, None where the group was given nothing"""
    unassigned: tuple[str, ...]
    """Names of the groups that were given nothing"""
    claimed_value: float
    """The entry of the table that it ends at; -inf if it filled none"""
    cost: int
    """True cost of what was chosen; groups without a candidate count nothing"""
    overrun: int
    """``cost`` minus the budget: by how much it is exceeded, or minus what was left unspent"""


def printed_dp(
    problem: Problem,
    unit: int,
    rounding: Rounding = "floor",
    *,
    limit_cells: int = MOST_CELLS,
) -> Printed:
    """What Algorithm 1 as printed makes of ``problem``. Wrong; for tests and documentation only.

    Ties that the text leaves open: taking nothing wins over an equal candidate, and of equal
    entries of the last row the cheapest is taken. The budget is always rounded down.

    Args:
        problem: groups and budget; the order of candidates matters (fault 2).
        unit: ``u``, cost units per step of the table.
        rounding: of ``w / u``; "nearest" takes halves up.
        limit_cells: most cells of the table.

    Raises:
        PlanError: an argument is out of its range, the table is too large, or the problem has
            further limits or rules.
    """
    refuse_extras(problem, "the printed algorithm")
    check_limit(limit_cells)
    if type(unit) is not int or not 1 <= unit < LARGEST_COST:
        raise PlanError(f"unit {unit!r}: must be an int in 1 .. 2**62 - 1")
    if rounding not in get_args(Rounding):
        raise PlanError(f"rounding {rounding!r}: known are {', '.join(get_args(Rounding))}")
    columns = problem.budget // unit + 1
    cells = len(problem.groups) * columns
    if cells > limit_cells:
        raise PlanError(
            f"the printed table of {len(problem.groups):,} groups and {columns:,} units has "
            f"{cells:,} cells, and limit_cells is {limit_cells:,}; it has no shift (fault 5)"
        )
    weights = [_rounded(group.costs, unit, rounding) for group in problem.groups]
    row = np.full(columns, -np.inf)
    row[0] = 0.0
    taken = []
    for group, weight in zip(problem.groups, weights, strict=True):
        row, pick = _printed_row(row, group, weight)
        taken.append(pick)
    end = int(row.argmax())
    return _result(problem, _backtrack(taken, weights, end), float(row[end]))


def _rounded(costs: IntArray, unit: int, rounding: Rounding) -> IntArray:
    if rounding == "ceil":
        return -(-costs // unit)
    # Halves go up: an odd unit has none, and of an even one unit // 2 is the half.
    return (costs + (unit // 2 if rounding == "nearest" else 0)) // unit


def _printed_row(
    before: FloatArray, group: Group, weights: IntArray
) -> tuple[FloatArray, NDArray[np.int32]]:
    """Lines 9 to 14 for one group: D[i], and the candidate that wrote each entry last."""
    row = np.full(len(before), -np.inf)
    pick = np.full(len(before), _NOTHING, np.int32)
    pairs = zip(weights.tolist(), group.values.tolist(), strict=True)
    for index, (weight, value) in enumerate(pairs):
        nothing, take = before[weight:], before[: max(len(before) - weight, 0)] + value
        # The faults: ``nothing`` should not be here (1), and ``row[weight:]`` should be (2).
        row[weight:] = np.maximum(nothing, take)
        pick[weight:] = np.where(take > nothing, index, _NOTHING)
    return row, pick


def _backtrack(
    taken: list[NDArray[np.int32]], weights: list[IntArray], end: int
) -> tuple[int | None, ...]:
    choice: list[int | None] = []
    for pick, weight in zip(reversed(taken), reversed(weights), strict=True):
        index = int(pick[end])
        choice.append(None if index == _NOTHING else index)
        end -= 0 if index == _NOTHING else int(weight[index])
    return tuple(choice[::-1])


def _result(problem: Problem, choice: tuple[int | None, ...], claimed: float) -> Printed:
    pairs = list(zip(problem.groups, choice, strict=True))
    cost = sum(int(group.costs[index]) for group, index in pairs if index is not None)
    return Printed(
        choice=choice,
        unassigned=tuple(group.name for group, index in pairs if index is None),
        claimed_value=claimed,
        cost=cost,
        overrun=cost - problem.budget,
    )
