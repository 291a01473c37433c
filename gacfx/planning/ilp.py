"""The same problem as an integer linear program, solved by CBC through PuLP: a second opinion.

CBC works with absolute tolerances of about 1e-6, so an objective of the wrong size makes it call
plans optimal that are not. The program is therefore scaled fairly: values are centred in every
group (its smallest is 0) and stretched until the widest group spans 1000; costs count quanta above
the cheapest candidate. What comes back is checked whatever its status says, because CBC has been
seen to hand out plans over the budget after a time limit.
"""

import math
import time
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from types import ModuleType

import numpy as np

from gacfx.errors import PlanError
from gacfx.planning.arrays import FloatArray, IntArray
from gacfx.planning.fixing import near
from gacfx.planning.lattice import Flat, flatten
from gacfx.planning.problem import Problem
from gacfx.planning.relaxation import relax
from gacfx.planning.solution import Solution

_SPAN = 1000.0
_TOLERANCE = 1e-6
"""What CBC may miss per group, in the scaled objective"""


def solve_ilp(problem: Problem, time_limit: float | None = None) -> Solution:
    """The plan that CBC finds. For comparison: ``solve`` is exact and far faster.

    Status "optimal" is CBC's claim, and holds within ``rounding_bound``. The multiplier is that of
    our linear relaxation, so that ``certificate.check`` certifies the plan as well.

    Args:
        problem: groups and budget.
        time_limit: seconds for CBC itself; building the program comes on top.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: PuLP or CBC is missing, or CBC returned no legal plan.
    """
    begin = time.perf_counter()
    if not problem.groups:
        raise PlanError("an integer program needs at least one group")
    flat = flatten(problem)
    objective, scale = _fair_values(flat)
    taken, claimed = _run_cbc(flat, objective, time_limit)
    position = _checked(flat, taken)
    relaxed = relax(flat)
    value = math.fsum(flat.value[position])
    tolerance = flat.groups * _TOLERANCE / scale
    bound = math.fsum(flat.value[relaxed.chosen]) + near(flat, relaxed).slack
    distance = tolerance if claimed else max(0.0, bound - value)
    return Solution(
        choice=tuple(flat.index(position).tolist()),
        cost=flat.usable_budget - flat.room + int(flat.cost[position].sum()),
        value=value,
        bound=value + distance,
        gap=distance,
        status="optimal" if claimed else "bounded",
        multiplier=relaxed.multiplier,
        usable_budget=flat.usable_budget,
        rounding_bound=tolerance,
        stats={
            "candidates": len(flat.cost),
            "groups": flat.groups,
            "quantum": flat.quantum,
            "capacity": flat.room // flat.quantum,
            "core_groups": flat.groups,
            "max_states": 0,
            "seconds": time.perf_counter() - begin,
        },
    )


def _fair_values(flat: Flat) -> tuple[FloatArray, float]:
    """Values above the smallest of the group, the widest group stretched to 1000; the factor."""
    centred = flat.value - flat.spread(np.minimum.reduceat(flat.value, flat.start[:-1]))
    widest = float(centred.max())
    scale = _SPAN / widest if widest > 0 else 1.0
    return centred * scale, scale


def _run_cbc(
    flat: Flat, objective: FloatArray, time_limit: float | None
) -> tuple[Sequence[float | None], bool]:
    """What CBC sets each candidate to, and whether it claims that this is optimal."""
    pulp = _import_pulp()
    program = pulp.LpProblem("plan", pulp.LpMaximize)
    # PuLP 4 makes variables through the program, older releases know only the class.
    make = getattr(program, "add_variable", pulp.LpVariable)
    take = [make(f"x{position}", cat="Binary") for position in range(len(flat.cost))]
    quanta = (flat.cost // flat.quantum).tolist()
    program += pulp.LpAffineExpression(zip(take, objective.tolist(), strict=True))
    program += pulp.LpAffineExpression(zip(take, quanta, strict=True)) <= flat.room // flat.quantum
    for begin, end in pairwise(flat.start.tolist()):
        program += pulp.LpAffineExpression((x, 1) for x in take[begin:end]) == 1
    program.solve(_cbc(pulp, time_limit))
    if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        raise PlanError(
            f"CBC returned no plan (status {pulp.LpStatus[program.status]}); raise time_limit, "
            "or use solve()"
        )
    return [x.varValue for x in take], program.sol_status == pulp.LpSolutionOptimal


def _import_pulp() -> ModuleType:
    try:
        return import_module("pulp")
    except ImportError:
        raise PlanError("solve_ilp needs PuLP: pip install pulp") from None


def _cbc(pulp: ModuleType, time_limit: float | None) -> object:
    """CBC as PuLP brings it, or the one on the path."""
    bundled = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    options = {"msg": False, "timeLimit": time_limit, "gapRel": 0.0, "gapAbs": 0.0, "threads": 1}
    for path in (bundled, None):
        solver = pulp.COIN_CMD(path=path, **options)
        if solver.available():
            return solver
    raise PlanError(
        "no CBC binary found: install coinor-cbc with the system's package manager, or a PuLP "
        "that brings one: pip install 'pulp[cbc]'"
    )


def _checked(flat: Flat, taken: Sequence[float | None]) -> IntArray:
    """[groups] positions that are set to 1; CBC's own status is not enough."""
    ones = np.flatnonzero(np.array([x or 0.0 for x in taken]) > 0.5)
    if not np.array_equal(flat.owner(ones), np.arange(flat.groups)):
        raise PlanError("CBC returned a plan without exactly one candidate per group")
    cost = int(flat.cost[ones].sum())
    if cost > flat.room:
        raise PlanError(f"CBC returned a plan {cost - flat.room} over the budget")
    return ones
