"""What to say when no plan keeps everything: what is missing, and what could be reached."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor

import numpy as np

from gacfx.allocation.latency import ShareOfDense
from gacfx.core.plan import Budget
from gacfx.errors import InfeasibleBudget
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.rules.merge import Merged, merge

DIGITS = 10**4
"""Shares are given to four digits, rounded to the side on which they can be reached."""


def explain(
    error: InfeasibleBudget, problem: Problem, budget: Budget, stuck: Sequence[str] = ()
) -> InfeasibleBudget:
    """The same error in the user's terms, with the smallest amount that can be reached.

    Args:
        error: of the solver.
        problem: that has no plan.
        budget: as it was asked for.
        stuck: why weights are offered no other size than dense.
    """
    merged = merge(problem)
    needed = sum(int(group.costs.min()) for group in merged.problem.groups)
    if needed > problem.budget:
        return _too_small(budget, needed, stuck)
    for limit in merged.problem.limits:
        least = _least(merged, limit)
        if least > limit.most:
            original = next(known for known in problem.limits if known.name == limit.name)
            return _out_of_reach(original, least, budget)
    names = " and ".join(repr(limit.name) for limit in problem.limits) or "the rules"
    return InfeasibleBudget(
        f"no plan keeps the budget ({budget.asked}) and {names} together, though each alone can be "
        f"kept; loosen one of them. {error}",
        needed=error.needed,
        budget=error.budget,
    )


def _too_small(budget: Budget, needed: int, stuck: Sequence[str]) -> InfeasibleBudget:
    """Even the smallest candidates have too many parameters."""
    outside = budget.model_params - budget.targeted_params
    whole = budget.targeted_params if budget.ratio_of == "targeted" else budget.model_params
    kept = needed if budget.ratio_of == "targeted" else needed + outside
    most = floor(DIGITS * (1 - kept / whole)) / DIGITS
    reach = f"The largest reachable ratio is {most:.4f}"
    if budget.unit != "ratio":
        reach = f"The smallest reachable is {kept:,} parameters, a ratio of {most:.4f}"
    if most <= 0:
        why = "; ".join(stuck[:3]) or "no other size than dense is offered"
        reach = f"Nothing can be made smaller: {why}; loosen align, tp, quant or bounds"
    return InfeasibleBudget(
        f"{budget.asked} leaves {budget.limit_params:,} "
        f"parameters, but the smallest plan needs {needed:,}: "
        f"{needed - budget.limit_params:,} too few. {reach}",
        needed=needed,
        budget=budget.limit_params,
    )


def _least(merged: Merged, limit: Limit) -> int:
    """The least that a plan within the budget spends under a limit; other limits are left out."""
    problem = merged.problem
    free = [
        np.zeros(len(group.costs), np.int64)
        if group.name not in limit.costs
        else limit.costs[group.name]
        for group in problem.groups
    ]
    groups = tuple(
        replace(group, values=-costs.astype(np.float64))
        for group, costs in zip(problem.groups, free, strict=True)
    )
    found = solve(Problem(groups, problem.budget))
    return sum(int(costs[pick]) for costs, pick in zip(free, found.choice, strict=True))


def _out_of_reach(limit: Limit, least: int, budget: Budget) -> InfeasibleBudget:
    """One limit that no plan within the budget keeps."""
    unit, reach = "", f"the smallest is {least:,}"
    if isinstance(limit, ShareOfDense) and limit.dense:
        unit, share = limit.unit and f" {limit.unit}", ceil(DIGITS * least / limit.dense) / DIGITS
        reach = f"{reach}{unit}, so the smallest reachable share is {share:.4f}"
    return InfeasibleBudget(
        f"limit {limit.name!r}: no plan within the budget ({budget.asked}) keeps to "
        f"{limit.most:,}{unit}; {reach}. Loosen it or the budget",
        needed=least,
        budget=limit.most,
    )
