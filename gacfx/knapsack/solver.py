"""The front door: every problem goes to the method that solves it exactly.

one budget                       core            microseconds to milliseconds, proven
groups of one label              merge, core     exact
one further limit                two_budgets     Lagrangian, reduced core, proven or bounded
implications                     product         product groups, then as above; too many pairs: ilp
more limits                      ilp             CBC or HiGHS, re-checked
"""

from gacfx.knapsack.amounts import check_amounts, deadline_of, seconds_left
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.rules.merge import merge
from gacfx.knapsack.rules.product import multiply
from gacfx.knapsack.solution import Solution
from gacfx.knapsack.two_budgets.solve import solve_two_budgets


def solve(problem: Problem, *, gap: float = 0.0, time_limit: float | None = None) -> Solution:
    """The most valuable plan that keeps the budget, the limits and the rules.

    Args:
        problem: groups and budget; curves of any shape, concave or not.
        gap: stop once the plan is within this much value of the best (absolute; for gacfx, nats),
            and twice the rounding bound.
        time_limit: seconds after which the search stops with what it has.

    Raises:
        InfeasibleBudget: no plan keeps the budget, or all limits together; says what is missing.
        PlanError: ``gap`` or ``time_limit`` is not a number >= 0, groups that must take one label
            have none in common, or an integer program is needed and PuLP is missing.
    """
    if not problem.limits and not problem.rules:
        return core.solve(problem, gap=gap, time_limit=time_limit)
    check_amounts(gap=gap, time_limit=time_limit)
    deadline = deadline_of(time_limit)
    merged = merge(problem)
    return merged.invert(_solve_merged(merged.problem, gap, deadline))


def _solve_merged(problem: Problem, gap: float, deadline: float) -> Solution:
    if problem.rules:
        product = multiply(problem)
        if product is not None:
            return product.invert(_solve_merged(product.problem, gap, deadline))
    time_limit = seconds_left(deadline)
    if problem.rules or len(problem.limits) > 1:
        return solve_ilp(problem, time_limit=time_limit)
    if not problem.limits:
        return core.solve(problem, gap=gap, time_limit=time_limit)
    return solve_two_budgets(problem, gap=gap, time_limit=time_limit)
