"""Who chooses: a solver by name -> one candidate for each group, or a reason why it cannot.

core         the exact planner, with limits and rules    proven, or bounded with its gap
dp           the dynamic program of GAC-v2, exact form   proven; one budget
ilp          an integer program, by what is installed    proven within its tolerance
cbc, highs   an integer program, by this solver          proven within its tolerance
greedy       GAC-v1: floor(d*), then best upgrades       a rule of thumb, with its gap
round        GAC-v1: d* to the nearest size, and down    a rule of thumb, with its gap
             again while the budget is exceeded
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from gacfx.core.search import LIMITS_KEPT, RULES_OF_THUMB
from gacfx.errors import PassError
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.ilp.solvers import SolverName
from gacfx.knapsack.limits import Implies
from gacfx.knapsack.paper.dp import solve_dp
from gacfx.knapsack.paper.rounding import solve_greedy, solve_rounded
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.rules.merge import merge
from gacfx.knapsack.solution import Solution
from gacfx.knapsack.solver import solve


@dataclass(frozen=True)
class Asked:
    """What a solver is told beside the problem."""

    wanted: Mapping[str, float]
    """Group -> d*, which greedy and round start from."""
    gap: float
    time_limit: float
    """Seconds; infinity for none."""


def choose(
    problem: Problem,
    solver: str,
    wanted: Mapping[str, float] | None = None,
    *,
    gap: float = 0.0,
    time_limit: float = inf,
) -> Solution:
    """The solution that a solver finds.

    Args:
        problem: groups, budget, limits and rules.
        solver: core, dp, ilp, cbc, highs, greedy or round.
        wanted: group -> d*, which greedy and round start from.
        gap: how close to the best is near enough; of core alone.
        time_limit: seconds; of core and integer programs.

    Raises:
        PassError: no such solver, or it cannot keep what the problem asks for.
        InfeasibleBudget: no plan keeps the budget and the limits.
    """
    if solver not in SOLVERS:
        raise PassError(f"solve: no solver {solver!r}; known: {', '.join(SOLVERS)}")
    refuse_what_it_cannot(problem, solver)
    if solver in RULES_OF_THUMB and wanted is None:
        raise PassError(f"solve: solver {solver!r} starts from wanted ranks; bind them")
    return SOLVERS[solver](problem, Asked(wanted or {}, gap, time_limit))


def refuse_what_it_cannot(problem: Problem, solver: str) -> None:
    """Raise PassError when this solver cannot keep the problem's limits or rules."""
    names = [f"limit {limit.name!r}" for limit in problem.limits if solver not in LIMITS_KEPT]
    if solver in RULES_OF_THUMB:
        names += [str(rule) for rule in problem.rules]
        forms = (label for group in problem.groups for label in group.labels)
        if strange := next((one for one in forms if isinstance(one, str) and one != "dense"), ""):
            raise PassError(
                f"solve: solver {solver!r} starts from the rank of a pair and cannot place "
                f"{strange!r}; take form 'pair', or core or ilp"
            )
    elif solver not in LIMITS_KEPT:  # what ties groups to one label is merged away before
        names += [str(rule) for rule in problem.rules if isinstance(rule, Implies)]
    if names:
        raise PassError(f"solve: solver {solver!r} cannot keep {names[0]}; take core or ilp")


def _dp(problem: Problem, _: Asked) -> Solution:
    if not problem.rules:
        return solve_dp(problem)
    merged = merge(problem)
    return merged.expand(solve_dp(merged.problem))


def _core(problem: Problem, asked: Asked) -> Solution:
    return solve(problem, gap=asked.gap, time_limit=asked.time_limit)


def _ilp(solver: SolverName) -> Callable[[Problem, Asked], Solution]:
    return lambda problem, asked: solve_ilp(problem, time_limit=asked.time_limit, solver=solver)


SOLVERS: dict[str, Callable[[Problem, Asked], Solution]] = {
    "core": _core,
    "dp": _dp,
    "ilp": _ilp("auto"),
    "cbc": _ilp("cbc"),
    "highs": _ilp("highs"),
    "greedy": lambda problem, asked: solve_greedy(problem, asked.wanted),
    "round": lambda problem, asked: solve_rounded(problem, asked.wanted, repair="greedy_down"),
}
