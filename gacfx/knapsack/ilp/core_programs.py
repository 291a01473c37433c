"""The plan of an integer program: over all candidates, or over the few that matter.

At good multipliers almost every candidate loses far more than the best plan misses of the
Lagrangian bound, and then it is in no better plan. How much the best plan misses is not known at
first, so a round solves the program over the candidates that lose least, which gives a plan and
shows how far the next round has to look. A round that looked as far as its own plan misses proves
it, provided that the solver proved its program. Each round looks at a few times as many candidates
as the last, because a first plan can miss much more than the best one.
"""

import math
from dataclasses import dataclass

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.ilp.column_generation import Dual
from gacfx.knapsack.ilp.program import SPAN, Goal, build, fair_goal, is_exact
from gacfx.knapsack.ilp.solvers import Answer, Solver
from gacfx.knapsack.ilp.table import Table

_FIRST_CORE = 400  # candidates beside the one that every group has at no loss
_GROWTH = 4
TOLERANCE = 1e-6
"""What a solver may miss per group, in an objective that spans 1000"""


@dataclass(frozen=True)
class Found:
    """What the programs gave."""

    position: IntArray | None
    """[groups] the plan; None: there is none at all"""
    claimed: bool
    """The solver says that no plan is better, within the tolerance, and saw every plan exactly"""
    tolerance: float
    core: int
    """Candidates in the last program"""
    programs: int
    bound: float = math.inf
    """No plan is worth more"""


def solve_whole(table: Table, solver: Solver) -> Found:
    """The solver's plan over all candidates.

    Raises:
        PlanError: it returned no plan, or an illegal one.
    """
    goal, unit = fair_goal(table)
    size = len(table.value)
    answer = solver.run(build(table, np.arange(size), goal))
    if answer.status == "infeasible":
        return Found(None, True, 0.0, size, 1)
    position, fault = read_plan(table, answer)
    if position is None:
        raise _no_plan(solver, fault)
    tolerance = TOLERANCE * table.groups * unit
    claimed = answer.status == "optimal" and is_exact(table)
    return Found(position, claimed, tolerance, size, 1)


def solve_core(table: Table, dual: Dual, solver: Solver) -> Found:
    """The best plan, over as many candidates as its proof needs.

    Raises:
        PlanError: the solver returned no legal plan.
    """
    search = CoreSearch(table, dual, solver, size=table.groups + _FIRST_CORE)
    while not search.done:
        search.look()
    if search.position is None and not search.infeasible:
        raise _no_plan(solver, search.fault)
    return Found(
        search.position,
        search.proven or search.infeasible,
        search.tolerance,
        search.core,
        search.programs,
        min(search.bound, dual.bound),
    )


@dataclass
class CoreSearch:
    """Rounds of looking further, each from the plan of the last."""

    table: Table
    dual: Dual
    solver: Solver
    size: int
    """Candidates to look at next"""
    position: IntArray | None = None
    value: float = -math.inf
    bound: float = math.inf
    """No plan is worth more"""
    tolerance: float = 0.0
    core: int = 0
    programs: int = 0
    fault: str = ""
    done: bool = False
    proven: bool = False
    infeasible: bool = False
    """The solver found no plan in what was looked at; in the end that is everything"""

    def look(self) -> None:
        """Solve the program over the next core, and say whether that was enough."""
        reach = self._reach()
        core = np.flatnonzero(self.dual.loss <= reach)
        goal, unit = _loss_goal(self.dual, core)
        answer = self.solver.run(build(self.table, core, goal))
        plan, self.fault = read_plan(self.table, answer)
        self._keep(plan)
        self.core, self.programs = len(core), self.programs + 1
        self.tolerance = TOLERANCE * self.table.groups * unit
        everything = len(core) == len(self.table.value)
        solved = plan is not None and answer.status == "optimal" and is_exact(self.table)
        if solved and not everything:
            # A plan with a candidate from outside loses more than ``reach``.
            outside = self.dual.bound - reach + self._margin
            self.bound = min(self.bound, max(self.value + self.tolerance, outside))
        self.proven = solved and (everything or self._missed <= reach)
        self.infeasible = answer.status == "infeasible"
        self.done = everything or self.proven or not (solved or answer.status == "infeasible")
        self.size = self.table.groups + _GROWTH * max(len(core) - self.table.groups, _FIRST_CORE)

    @property
    def _margin(self) -> float:
        return 2 * self.dual.margin

    @property
    def _missed(self) -> float:
        """What the plan may miss of the best, and the margin."""
        return self.dual.bound - self.value + self._margin

    def _keep(self, plan: IntArray | None) -> None:
        value = -math.inf if plan is None else math.fsum(self.table.value[plan])
        if value > self.value:
            self.position, self.value = plan, value

    def _reach(self) -> float:
        """The loss up to which to look: all that the proof needs, if that is not far too much."""
        last = min(self.size, len(self.dual.loss)) - 1
        if np.count_nonzero(self.dual.loss <= self._missed) <= last + 1:
            return self._missed
        return float(np.partition(self.dual.loss, last)[last])


def read_plan(table: Table, answer: Answer) -> tuple[IntArray | None, str]:
    """([groups] positions, "") of a legal plan, or (None, what is wrong): a status proves nothing.

    CBC has been seen to hand out plans over the budget after a time limit.
    """
    if answer.status in ("infeasible", "nothing"):
        return None, f"no plan (status {answer.status})"
    ones = [name for name, number in answer.value.items() if name[0] == "x" and number > 0.5]
    position = np.sort(np.array([int(name[1:]) for name in ones], np.int64))
    if not np.array_equal(table.owner[position], np.arange(table.groups)):
        return None, "a plan without exactly one candidate per group"
    over = table.over(position)
    if (over > 0).any():
        which = int(np.argmax(over > 0))
        name = "the budget" if which == 0 else f"limit {which}"
        return None, f"a plan {int(over[which] * table.quantum[which])} over {name}"
    if broken := table.broken(position):
        return None, f"a plan that breaks {broken} rules"
    return position, ""


def _loss_goal(dual: Dual, core: IntArray) -> tuple[Goal, float]:
    """(minimise the distance from the bound, value of one unit of that)."""
    widest = max(float(dual.loss[core].max()), float(dual.price.max())) or 1.0
    scale = SPAN / widest
    return Goal(dual.loss * scale, dual.price * scale, dual.link_price * scale), widest / SPAN


def _no_plan(solver: Solver, fault: str) -> PlanError:
    return PlanError(f"{solver.name} returned {fault}; raise time_limit, or try the other solver")
