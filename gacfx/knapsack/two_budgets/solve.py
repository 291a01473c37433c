"""Solve a problem with one budget and one further limit exactly: proven, or with an honest bound.

    normal form -> best prices -> first plan -> search of cores that grow

A price for each of the two gives a Lagrangian bound, and leaves a small core to search. If one of
the prices is 0, that resource hardly matters: the problem with the other one alone is solved, and
if its plan happens to keep both, it is the answer. Guards on work and memory always end the search;
a plan that is then not proven comes with the status "bounded" and the bound that was reached.

A limit that touches only some of the groups (a KV cache) needs nothing special: its groups are
decided first, and from there on only the budget tells unfinished plans apart.
"""

import math
import time
import warnings
from dataclasses import replace

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import PrecisionWarning, check_amounts, deadline_of
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.normal_form import NormalForm, normal_form
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution
from gacfx.knapsack.two_budgets.core_search import TwoCoreSearch
from gacfx.knapsack.two_budgets.lagrangian_dual import Dual, solve_dual
from gacfx.knapsack.two_budgets.primal_heuristic import filled, first_plan
from gacfx.knapsack.two_budgets.single_budget import leanest, refuse_together, solve_alone
from gacfx.knapsack.work import Work

_MOST_STEPS = 40_000_000  # four seconds on an idle machine, up to fifteen on a busy one


def solve_two_budgets(
    problem: Problem, *, gap: float = 0.0, time_limit: float | None = None
) -> Solution:
    """The most valuable plan that keeps the budget and the limit.

    Args:
        problem: groups, budget and exactly one limit, no rules; curves of any shape.
        gap: stop once the plan is within this much value of the best (absolute; for gacfx, nats),
            and twice the rounding bound.
        time_limit: seconds after which the search stops with what it has.

    Raises:
        InfeasibleBudget: no plan keeps the budget, or the limit, or both together; says what is
            missing.
        PlanError: ``gap`` or ``time_limit`` is not a number >= 0, the problem has rules or not
            exactly one limit, or the work was used up before any plan was found.
    """
    begin = time.perf_counter()
    check_amounts(gap=gap, time_limit=time_limit)
    deadline = deadline_of(time_limit)
    if len(problem.limits) != 1 or problem.rules:
        raise PlanError("two budgets: the problem must have one limit and no rules; use solve()")
    if not problem.groups:
        alone = core.solve(replace(problem, limits=()))
        return replace(alone, limit_multipliers=(0.0,))
    form = normal_form(problem)
    if form.closed:
        _, needed, floor = leanest(problem, deadline)
        refuse_together(problem, needed, floor)
    dual = solve_dual(form)
    easy = _without_one(problem, form, dual, gap, deadline)
    if easy:
        return easy
    search = TwoCoreSearch(form, dual, gap, Work(_MOST_STEPS, deadline), first_plan(form, dual))
    if dual.open_rooms:
        search.approach()
    if search.chosen is None:
        search.chosen = _any_plan(problem, search, deadline)
    search.improve()
    if search.blurred:
        warnings.warn(
            f"{search.blurred} groups have values too small to tell apart beside the others; "
            f"the plan can miss up to {search.rounding:.3g}",
            PrecisionWarning,
            stacklevel=2,
        )
    return _solution(problem, search, search.chosen, begin)


def _without_one(
    problem: Problem, form: NormalForm, dual: Dual, gap: float, deadline: float
) -> Solution | None:
    """The solution if one of the two has no price and the plan of the other alone keeps both."""
    for keep in (0, 1):
        if not dual.open_rooms or dual.price[1 - keep] > 0:
            continue
        alone = solve_alone(problem, keep, gap, deadline)
        if alone:
            return _of_both(form, alone)
    return None


def _of_both(form: NormalForm, alone: Solution) -> Solution:
    """A solution that looked at one of the two only, as one of both."""
    position = _cheapest_equal(form, form.positions(alone.choice))
    value = math.fsum(form.value[position])
    distance = max(0.0, alone.gap - (value - alone.value))
    return replace(
        alone,
        choice=tuple(form.origin[position].tolist()),
        cost=form.least[0] + int(form.cost[0, position].sum()),
        value=value,
        bound=value + distance,
        gap=distance,
        usable_budget=form.usable_budget,
    )


def _any_plan(problem: Problem, search: TwoCoreSearch, deadline: float) -> IntArray:
    """[groups] positions of some plan, since the search found none.

    Raises:
        InfeasibleBudget: there is none.
        PlanError: that is not certain.
    """
    limit = problem.limits[0]
    choice, needed, floor = leanest(problem, deadline)
    if search.proven or floor > limit.most:
        refuse_together(problem, needed, floor)
    if needed > limit.most:
        raise PlanError(
            f"no plan found that keeps the budget of {problem.budget} and the limit "
            f"{limit.name!r} of {limit.most}, nor a proof that there is none; allow {needed} "
            "for that limit, or more time"
        )
    return filled(search.form, search.dual, search.form.positions(choice))


def _solution(problem: Problem, search: TwoCoreSearch, chosen: IntArray, begin: float) -> Solution:
    form, dual = search.form, search.dual
    distance = search.rounding if search.proven else max(0.0, search.upper - search.gain)
    position = _cheapest_equal(form, chosen)
    value = math.fsum(form.value[position])
    stats: dict[str, float | int] = {
        "candidates": form.offered,
        "groups": form.groups,
        "quantum": form.quantum[0],
        "capacity": form.room[0] // form.quantum[0],
        "limit_quantum": form.quantum[1],
        "limit_capacity": form.room[1] // form.quantum[1],
        "core_groups": search.core_groups,
        "core_candidates": search.core_candidates,
        "max_states": search.work.max_states,
        "planes": search.planes,
        "steps": _MOST_STEPS - search.work.steps_left,
        "seconds": time.perf_counter() - begin,
    }
    return Solution(
        choice=tuple(form.origin[position].tolist()),
        cost=form.least[0] + int(form.cost[0, position].sum()),
        value=value,
        bound=value + distance,
        gap=distance,
        status="optimal" if search.proven or distance <= search.rounding else "bounded",
        multiplier=dual.price[0],
        usable_budget=form.usable_budget,
        rounding_bound=search.rounding,
        stats=stats,
        limit_multipliers=(dual.price[1],),
    )


def _cheapest_equal(form: NormalForm, chosen: IntArray) -> IntArray:
    """[groups] the cheapest candidates that are worth as much and cost no more of either."""
    good = form.value >= form.spread(form.value[chosen])
    for cost in form.cost:
        good &= cost <= np.repeat(cost[chosen], form.sizes)
    hits = np.flatnonzero(good)
    first, second = form.cost[:, hits]
    order = np.lexsort((hits, second, first, form.owner(hits)))
    return hits[order][np.searchsorted(hits, form.start[:-1])]
