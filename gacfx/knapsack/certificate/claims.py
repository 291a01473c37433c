"""Claims of a solution that contradict each other, or that one exchange of candidates refutes.

The Lagrangian bound says how far a plan can be from the best; it cannot say that a plan which is
called the best is not. A single exchange often can: if another candidate of a group fits as well,
then no bound below the plan with it is true.
"""

import math
from fractions import Fraction

import numpy as np

from gacfx.knapsack.certificate.candidates import Candidates
from gacfx.knapsack.limits import Implies
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution

_CLAIM_PRECISION = Fraction(1, 2**50)
"""Claims are floats, each rounded by itself; relative."""


def claim_faults(solution: Solution) -> list[str]:
    """What is wrong with bound, gap, rounding bound and status, whatever the problem is."""
    faults = []
    amounts = {"gap": solution.gap, "rounding bound": solution.rounding_bound}
    for name, amount in amounts.items():
        if not (math.isfinite(amount) and amount >= 0):
            faults.append(f"{name} {amount!r} is not a number >= 0")
    known = math.isfinite(solution.bound) and math.isfinite(solution.value)
    if not (known and solution.bound >= solution.value):
        faults.append(f"bound {solution.bound!r} is below the value {solution.value!r}")
    if faults:
        return faults
    distance = Fraction(solution.bound) - Fraction(solution.value)
    if abs(distance - Fraction(solution.gap)) > _dust(solution):
        faults.append(
            f"gap {solution.gap!r} is not what bound {solution.bound!r} and value "
            f"{solution.value!r} leave"
        )
    if solution.status == "optimal" and solution.gap > solution.rounding_bound:
        faults.append(f"status optimal with a gap of {solution.gap!r}")
    elif solution.status not in ("optimal", "bounded"):
        faults.append(f"status {solution.status!r} is neither optimal nor bounded")
    return faults


def refutation(
    problem: Problem, solution: Solution, value: Fraction, found: Candidates
) -> list[str]:
    """The first exchange that makes a plan worth more than the claimed bound, if there is one.

    Groups that a rule speaks of are left alone.

    Args:
        problem: what was solved.
        solution: a legal plan, whose claims do not contradict each other.
        value: what its plan is worth.
        found: all candidates.
    """
    bound = Fraction(solution.bound) + Fraction(solution.rounding_bound) + _dust(solution)
    chosen = found.start[:-1] + np.array(solution.choice, np.int64)
    most = [problem.budget, *(limit.most for limit in problem.limits)]
    fits = np.ones(len(found.value), np.bool_)
    for row, allowed in zip(found.costs, most, strict=True):
        fits &= row <= found.spread(row[chosen] + (allowed - sum(row[chosen].tolist())))
    reachable = np.where(fits, found.value, -np.inf)
    best = np.maximum.reduceat(reachable, found.start[:-1])
    tied = {name for rule in problem.rules for name in named(rule)}
    for number in np.flatnonzero(best > found.value[chosen]).tolist():
        group, old = problem.groups[number], solution.choice[number]
        gain = Fraction(float(best[number])) - Fraction(float(group.values[old]))
        if group.name not in tied and value + gain > bound:
            begin, end = found.start[number : number + 2]
            return [
                f"bound {solution.bound!r} is too low: group {group.name!r} could take candidate "
                f"{int(reachable[begin:end].argmax())} instead of {old}, for {float(gain):.6g} more"
            ]
    return []


def _dust(solution: Solution) -> Fraction:
    """What rounding the claims to floats can hide."""
    return _CLAIM_PRECISION * (abs(Fraction(solution.bound)) + abs(Fraction(solution.value)))


def named(rule: object) -> tuple[str, ...]:
    """The groups that a rule speaks of."""
    if isinstance(rule, Implies):
        return rule.group, rule.then_group
    return getattr(rule, "groups", ())
