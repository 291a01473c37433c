"""Solve a problem with one budget exactly, with a proof or with an honest bound.

    normal form -> relax -> fix by reduced cost -> first plan -> search the core

The relaxation takes a few passes over the candidates and leaves a few thousand of them near its
bound. Among these upgrades and exchanges find a plan so good that little stays open, often nothing.
Guards on work and memory always end the search; a plan that is then not proven comes with the
status "bounded" and the bound that was reached.

Guaranteed whatever the status: one candidate per group, a cost within the budget, and in no group a
cheaper candidate worth as much, or an equal one with a lower index. Which of several optimal plans
comes back depends on the order of the groups, and on nothing else.
"""

import math
import time
import warnings

from gacfx.knapsack.amounts import PrecisionWarning, check_amounts, deadline_of, refuse_extras
from gacfx.knapsack.normal_form import NormalForm, normal_form
from gacfx.knapsack.one_budget.core_search import CoreSearch
from gacfx.knapsack.one_budget.local_search import first_plan
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed, relax
from gacfx.knapsack.one_budget.reduced_costs import unfixed
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution
from gacfx.knapsack.work import Work

_MOST_STEPS = 40_000_000  # one to three seconds on an idle machine


def solve(problem: Problem, *, gap: float = 0.0, time_limit: float | None = None) -> Solution:
    """The most valuable plan within the budget.

    Args:
        problem: groups and budget; curves of any shape, concave or not.
        gap: stop once the plan is within this much value of the best (absolute; for gacfx, nats),
            and twice the rounding bound.
        time_limit: seconds after which the search stops with what it has.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: ``gap`` or ``time_limit`` is not a number >= 0, or the problem has further
            limits or rules.
    """
    begin = time.perf_counter()
    refuse_extras(problem, "the core solver")
    check_amounts(gap=gap, time_limit=time_limit)
    deadline = deadline_of(time_limit)
    if not problem.groups:
        return _nothing_to_choose(problem.budget)
    form = normal_form(problem)
    relaxed = relax(form)
    candidates = unfixed(form, relaxed)
    search = CoreSearch(
        near=candidates,
        groups=form.groups,
        tolerance=gap,
        work=Work(_MOST_STEPS, deadline),
        plan=first_plan(candidates),
        upper=candidates.slack,
    )
    search.run()
    if search.blurred:
        warnings.warn(
            f"{search.blurred} groups have values too small to tell apart beside the others; "
            f"the plan can miss up to {search.rounding:.3g}",
            PrecisionWarning,
            stacklevel=2,
        )
    return _solution(form, relaxed, search, begin)


def _solution(form: NormalForm, relaxed: Relaxed, search: CoreSearch, begin: float) -> Solution:
    distance = search.rounding if search.proven else max(0.0, search.upper - search.gain)
    chosen = relaxed.chosen.copy()
    chosen[search.near.group] = search.near.position[search.plan]
    value = math.fsum(form.value[chosen].tolist())
    stats: dict[str, float | int] = {
        "candidates": form.offered,
        "groups": form.groups,
        "quantum": form.quantum[0],
        "capacity": form.room[0] // form.quantum[0],
        "core_groups": search.core_groups,
        "core_candidates": search.core_candidates,
        "max_states": search.work.max_states,
        "steps": _MOST_STEPS - search.work.steps_left,
        "seconds": time.perf_counter() - begin,
    }
    return Solution(
        choice=tuple(form.origin[chosen].tolist()),
        cost=form.least[0] + int(form.cost[0, chosen].sum()),
        value=value,
        bound=value + distance,
        gap=distance,
        status="optimal" if search.proven or distance <= search.rounding else "bounded",
        multiplier=relaxed.multiplier,
        usable_budget=form.usable_budget,
        rounding_bound=search.rounding,
        stats=stats,
    )


def _nothing_to_choose(budget: int) -> Solution:
    names = ("candidates", "groups", "quantum", "capacity", "core_groups", "max_states")
    stats: dict[str, float | int] = dict.fromkeys(names, 0)
    stats["seconds"] = 0.0
    return Solution((), 0, 0.0, 0.0, 0.0, "optimal", 0.0, budget, 0.0, stats)
