"""Who chooses: a solver by name -> one candidate for each group, or a reason why it cannot.

core     the exact planner, with limits and rules    proven, or bounded with its gap
dp       the dynamic program of GAC-v2, exact form   proven; one budget
ilp      an integer program                          proven within its tolerance
greedy   GAC-v1: floor(d*), then best upgrades       a rule of thumb, with its gap
round    GAC-v1: d* to the nearest size, and down    a rule of thumb, with its gap
         again while the budget is exceeded
"""

from collections.abc import Callable, Mapping

from gacfx.core.search import LIMITS_KEPT, RULES_OF_THUMB
from gacfx.errors import PassError
from gacfx.planning.ilp.solve import solve_ilp
from gacfx.planning.limits import Implies
from gacfx.planning.paper.dp import solve_dp
from gacfx.planning.paper.rounding import solve_greedy, solve_rounded
from gacfx.planning.problem import Problem
from gacfx.planning.rules.merge import merge
from gacfx.planning.solution import Solution
from gacfx.planning.solver import solve

Wanted = Mapping[str, float]


def choose(problem: Problem, solver: str, wanted: Wanted | None = None) -> Solution:
    """The solution that a solver finds.

    Args:
        problem: groups, budget, limits and rules.
        solver: core, dp, ilp, greedy or round.
        wanted: group -> d*, which greedy and round start from.

    Raises:
        PassError: no such solver, or it cannot keep what the problem asks for.
        InfeasibleBudget: no plan keeps the budget and the limits.
    """
    if solver not in SOLVERS:
        raise PassError(f"solve: no solver {solver!r}; known: {', '.join(SOLVERS)}")
    refuse_what_it_cannot(problem, solver)
    if solver in RULES_OF_THUMB and wanted is None:
        raise PassError(f"solve: solver {solver!r} starts from wanted ranks; bind them")
    return SOLVERS[solver](problem, wanted or {})


def refuse_what_it_cannot(problem: Problem, solver: str) -> None:
    """Raise PassError when this solver cannot keep the problem's limits or rules."""
    names = [f"limit {limit.name!r}" for limit in problem.limits if solver not in LIMITS_KEPT]
    if solver in RULES_OF_THUMB:
        names += [str(rule) for rule in problem.rules]
    elif solver not in LIMITS_KEPT:  # what ties groups to one label is merged away before
        names += [str(rule) for rule in problem.rules if isinstance(rule, Implies)]
    if names:
        raise PassError(f"solve: solver {solver!r} cannot keep {names[0]}; take core or ilp")


def _dp(problem: Problem, _: Wanted) -> Solution:
    if not problem.rules:
        return solve_dp(problem)
    merged = merge(problem)
    return merged.expand(solve_dp(merged.problem))


SOLVERS: dict[str, Callable[[Problem, Wanted], Solution]] = {
    "core": lambda problem, _: solve(problem),
    "dp": _dp,
    "ilp": lambda problem, _: solve_ilp(problem),
    "greedy": solve_greedy,
    "round": lambda problem, wanted: solve_rounded(problem, wanted, repair="greedy_down"),
}
