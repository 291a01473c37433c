"""Solve a planning problem exactly, with a proof or with an honest bound.

    flatten -> relax -> fix by reduced cost -> greedy fill -> search the core in rounds

The relaxation takes time linear in the number of candidates and leaves a small core to search.
Guards on work and memory always end the search; a plan that is then not proven comes with the
status "bounded" and the bound that was reached.

Guaranteed whatever the status: one candidate per group, a cost within the budget, and in no group a
cheaper candidate worth as much, or an equal one with a lower index. Which of several optimal plans
comes back depends on the order of the groups, and on nothing else.
"""

import math
import time
import warnings

import numpy as np

from gacfx.errors import PlanError
from gacfx.planning.arrays import IntArray
from gacfx.planning.core_dp import Work
from gacfx.planning.fixing import near
from gacfx.planning.greedy import fill
from gacfx.planning.lattice import Flat, flatten
from gacfx.planning.problem import Problem
from gacfx.planning.relaxation import relax
from gacfx.planning.rounds import Rounds
from gacfx.planning.solution import Solution

_MOST_STEPS = 40_000_000  # one to three seconds


class PrecisionWarning(UserWarning):
    """Values differ by so many orders of magnitude that the smallest ones were lost."""


def solve(problem: Problem, *, gap: float = 0.0, time_limit: float | None = None) -> Solution:
    """The most valuable plan within the budget.

    Args:
        problem: groups and budget; curves of any shape, concave or not.
        gap: stop once the plan is within this much value of the best (absolute; for gacfx, nats),
            and twice the rounding bound.
        time_limit: seconds after which the search stops with what it has.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: ``gap`` or ``time_limit`` is not a number >= 0.
    """
    begin = time.perf_counter()
    for name, number in (("gap", gap), ("time_limit", time_limit)):
        if number is not None and not _is_amount(number):
            raise PlanError(f"{name} {number!r}: must be a number >= 0")
    if not problem.groups:
        return _nothing_to_choose(problem.budget)
    flat = flatten(problem)
    relaxed = relax(flat)
    open_ = near(flat, relaxed)
    deadline = math.inf if time_limit is None else begin + time_limit
    rounds = Rounds(
        flat=flat,
        relaxed=relaxed,
        near=open_,
        tolerance=gap,
        work=Work(_MOST_STEPS, deadline),
        chosen=fill(flat, relaxed.chosen, relaxed.left, open_),
        upper=open_.slack,
    )
    rounds.run()
    if rounds.blurred:
        warnings.warn(
            f"{rounds.blurred} groups have values too small to tell apart beside the others; "
            f"the plan can miss up to {rounds.rounding:.3g}",
            PrecisionWarning,
            stacklevel=2,
        )
    return _solution(problem, rounds, begin)


def _is_amount(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and number >= 0


def _solution(problem: Problem, rounds: Rounds, begin: float) -> Solution:
    flat, relaxed = rounds.flat, rounds.relaxed
    distance = rounds.rounding if rounds.proven else max(0.0, rounds.upper - rounds.gain)
    position = _cheapest_equal(flat, rounds.chosen)
    value = math.fsum(flat.value[position])
    stats: dict[str, float | int] = {
        "candidates": sum(len(group.costs) for group in problem.groups),
        "groups": flat.groups,
        "quantum": flat.quantum,
        "capacity": flat.room // flat.quantum,
        "core_groups": rounds.core_groups,
        "core_candidates": rounds.core_candidates,
        "max_states": rounds.work.max_states,
        "steps": _MOST_STEPS - rounds.work.steps_left,
        "seconds": time.perf_counter() - begin,
    }
    return Solution(
        choice=tuple(flat.index(position).tolist()),
        cost=flat.usable_budget - flat.room + int(flat.cost[position].sum()),
        value=value,
        bound=value + distance,
        gap=distance,
        status="optimal" if rounds.proven or distance <= rounds.rounding else "bounded",
        multiplier=relaxed.multiplier,
        usable_budget=flat.usable_budget,
        rounding_bound=rounds.rounding,
        stats=stats,
    )


def _cheapest_equal(flat: Flat, chosen: IntArray) -> IntArray:
    """[groups] the first position of each group that is worth as much as the chosen one."""
    good = flat.value >= flat.spread(flat.value[chosen])
    hits = np.flatnonzero(good)
    return hits[np.searchsorted(hits, flat.start[:-1])]


def _nothing_to_choose(budget: int) -> Solution:
    names = ("candidates", "groups", "quantum", "capacity", "core_groups", "max_states")
    stats: dict[str, float | int] = dict.fromkeys(names, 0)
    stats["seconds"] = 0.0
    return Solution((), 0, 0.0, 0.0, 0.0, "optimal", 0.0, budget, 0.0, stats)
