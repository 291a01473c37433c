"""Planning as an integer program, solved by CBC or HiGHS: any limits, any rules.

For a problem with one budget it is a second opinion on ``solve``, which is exact and far faster,
and shares nothing with it but the problem. For several limits and rules it is the method itself.
What a solver returns is checked in whole numbers whatever its status says.
"""

import math
import time
from dataclasses import replace

import numpy as np

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack.amounts import check_amounts, deadline_of
from gacfx.knapsack.ilp.column_generation import dual
from gacfx.knapsack.ilp.core_programs import Found, solve_core, solve_whole
from gacfx.knapsack.ilp.solvers import Solver, SolverName, find_solver
from gacfx.knapsack.ilp.table import Table, tabulate
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.rules.merge import merge
from gacfx.knapsack.solution import Solution

_NAMED_RULES = 4  # in one message


def solve_ilp(
    problem: Problem,
    time_limit: float | None = None,
    *,
    solver: SolverName = "auto",
    shrink: bool | None = None,
) -> Solution:
    """The plan that an integer program gives, with multipliers for ``certificate.check``.

    Status "optimal" is the solver's claim about its program, and holds within ``rounding_bound``.

    Args:
        problem: groups, budget, limits and rules.
        time_limit: seconds for all solver runs together. A solver that has not answered a few
            seconds later is killed; building programs comes on top.
        solver: "cbc" comes with PuLP, "highs" with ``pip install highspy``; "auto" takes CBC, and
            HiGHS where there is no CBC.
        shrink: give the solver only the candidates that can matter. None: where the problem has
            limits or rules; a plain one goes whole to the solver, as a second opinion should.

    Raises:
        InfeasibleBudget: no plan keeps the budget, the limits and the rules; says which.
        PlanError: PuLP or the solver is missing, it returned no legal plan, or groups that must
            take one label have none in common.
    """
    begin = time.perf_counter()
    check_amounts(time_limit=time_limit)
    merged = merge(problem)
    chosen = find_solver(solver, deadline_of(time_limit))
    if not problem.groups:
        nothing = core.solve(replace(problem, limits=(), rules=()))
        return replace(nothing, limit_multipliers=(0.0,) * len(problem.limits))
    if shrink is None:
        shrink = bool(merged.problem.limits or merged.problem.rules)
    solution = _solve(merged.problem, chosen, shrink, begin)
    if solution is None:
        raise _explain(problem, merged.problem, chosen)
    return merged.invert(solution)


def _solve(problem: Problem, solver: Solver, shrink: bool, begin: float) -> Solution | None:
    """The plan; None if there is none."""
    table = tabulate(problem)
    if table.empty:
        return None
    if not (shrink or problem.limits or problem.rules):
        found = solve_whole(table, solver)
        seconds = time.perf_counter() - begin
        # The certificate wants a multiplier; it is no part of the second opinion.
        plain = core.solve(problem, time_limit=solver.seconds_left)
        return _solution(problem, table, found, (plain.multiplier,), plain.bound, seconds)
    prices = dual(table, solver)
    found = solve_core(table, prices, solver) if shrink else solve_whole(table, solver)
    multipliers = tuple((prices.price / table.quantum).tolist())
    bound = min(found.bound, prices.bound)
    return _solution(problem, table, found, multipliers, bound, time.perf_counter() - begin)


def _explain(problem: Problem, merged: Problem, solver: Solver) -> PlanError:
    """What cannot be kept together, and the smallest budget that could."""
    names = [f"the budget {problem.budget}"]
    names += [f"limit {limit.name!r} ({limit.most})" for limit in problem.limits]
    names += [f"rule {rule}" for rule in problem.rules[:_NAMED_RULES]]
    if len(problem.rules) > _NAMED_RULES:
        names.append(f"{len(problem.rules) - _NAMED_RULES} more rules")
    cheapest, way_out = _way_out(merged, solver)
    if cheapest is not None and cheapest <= problem.budget:
        return PlanError(
            f"{solver.name} finds no plan within the budget of {problem.budget}, and then one that "
            f"costs {cheapest}; try the other solver"
        )
    needed = sum(int(group.costs.min()) for group in merged.groups)
    return InfeasibleBudget(
        f"no plan keeps {', '.join(names)} together, though the budget and each limit can be kept "
        f"alone; {way_out}",
        needed=needed if cheapest is None else cheapest,
        budget=problem.budget,
    )


def _way_out(problem: Problem, solver: Solver) -> tuple[int | None, str]:
    """(what the cheapest plan with these limits and rules costs, what to do)."""
    groups = tuple(
        replace(group, values=-group.costs.astype(np.float64)) for group in problem.groups
    )
    enough = sum(int(group.costs.max()) for group in groups)
    try:
        free = replace(problem, groups=groups, budget=enough)
        solution = _solve(free, solver, shrink=True, begin=time.perf_counter())
    except PlanError:  # no time left
        return None, "loosen one of them"
    if solution is None:
        return None, "no budget would help: the limits and rules exclude each other; loosen one"
    return solution.cost, f"a budget of {solution.cost} would do; raise it, or loosen another"


def _solution(
    problem: Problem,
    table: Table,
    found: Found,
    multipliers: tuple[float, ...],
    bound: float,
    seconds: float,
) -> Solution | None:
    if found.position is None:
        return None
    choice = tuple(table.index[found.position].tolist())
    chosen = list(zip(problem.groups, choice, strict=True))
    value = math.fsum(float(group.values[index]) for group, index in chosen)
    distance = found.tolerance if found.claimed else max(0.0, bound - value)
    return Solution(
        choice=choice,
        cost=sum(int(group.costs[index]) for group, index in chosen),
        value=value,
        bound=value + distance,
        gap=distance,
        status="optimal" if found.claimed else "bounded",
        multiplier=multipliers[0],
        usable_budget=table.usable_budget,
        rounding_bound=found.tolerance,
        stats={
            "candidates": sum(len(group.costs) for group in problem.groups),
            "groups": len(problem.groups),
            "quantum": int(table.quantum[0]),
            "capacity": int(table.room[0]),
            "core_groups": table.groups,
            "core_candidates": found.core,
            "max_states": 0,
            "programs": found.programs,
            "seconds": seconds,
        },
        limit_multipliers=multipliers[1:],
    )
