"""The methods of the two GAC papers, as baselines beside ``core.solve``: what they share.

    dp              GAC-v2, Algorithm 1 in its exact form: ``solve_dp``
    rounding        GAC-v1, greedy upgrades and Round-Nearest: ``solve_greedy``, ``solve_rounded``

Whatever made a plan, it comes back as the same ``Solution``, with the multiplier of our own linear
relaxation, so that ``certificate.check`` certifies it and says how far from the best it can be.
"""

import math
import time
from collections.abc import Sequence

from gacfx.knapsack.normal_form import NormalForm
from gacfx.knapsack.one_budget.lp_relaxation import Relaxed, relax
from gacfx.knapsack.one_budget.reduced_costs import unfixed
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution


def finished(
    problem: Problem,
    form: NormalForm,
    choice: Sequence[int],
    begin: float,
    *,
    rounding: float | None = None,
    states: int = 0,
) -> Solution:
    """The solution that ``choice`` is, with an honest status and gap.

    Args:
        problem: what was solved.
        form: its normal form.
        choice: [groups] index into the candidates; a plan within the budget.
        begin: ``time.perf_counter()`` when the work began.
        rounding: what an exhausted search can have missed; the plan is optimal but for that. None
            for a rule of thumb: its gap is the distance from the Lagrangian bound.
        states: the most partial plans held at a time.
    """
    relaxed = relax(form)
    value = total_value(problem, choice)
    gap = max(0.0, _upper(form, relaxed) - value) if rounding is None else rounding
    return Solution(
        choice=tuple(choice),
        cost=total_cost(problem, choice),
        value=value,
        bound=value + gap,
        gap=gap,
        status="bounded" if rounding is None and gap > 0 else "optimal",
        multiplier=relaxed.multiplier,
        usable_budget=form.usable_budget,
        rounding_bound=rounding or 0.0,
        stats={
            "candidates": sum(len(group.costs) for group in problem.groups),
            "groups": form.groups,
            "quantum": form.quantum[0],
            "capacity": form.room[0] // form.quantum[0],
            "core_groups": form.groups,
            "max_states": states,
            "seconds": time.perf_counter() - begin,
        },
    )


def _upper(form: NormalForm, relaxed: Relaxed) -> float:
    """The Lagrangian bound: no plan within the budget is worth more."""
    return math.fsum(form.value[relaxed.chosen]) + unfixed(form, relaxed).slack


def total_cost(problem: Problem, choice: Sequence[int]) -> int:
    """What the chosen candidates cost together."""
    chosen = zip(problem.groups, choice, strict=True)
    return sum(int(group.costs[index]) for group, index in chosen)


def total_value(problem: Problem, choice: Sequence[int]) -> float:
    """What the chosen candidates are worth together, correctly rounded."""
    chosen = zip(problem.groups, choice, strict=True)
    return math.fsum(float(group.values[index]) for group, index in chosen)
