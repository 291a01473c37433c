"""Check a solution in exact arithmetic, sharing nothing with the solver that made it.

For any multiplier lam >= 0 no plan within the budget is worth more than

    lam * usable_budget + sum over groups of max_j (value_j - lam * cost_j)

The usable budget is the largest total that the costs can form without passing the budget, as far as
their greatest common divisor tells; candidates that do not fit even beside the cheapest of all
other groups are left out. Floats are exact fractions of two, so everything is computed in whole
numbers of one common fraction.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from gacfx.errors import PlanError
from gacfx.planning.problem import Problem
from gacfx.planning.solution import Solution


@dataclass(frozen=True)
class Certificate:
    """What is certain about a solution, whatever the solver claims."""

    feasible: bool
    """One candidate per group, and the total cost is within the budget"""
    faults: tuple[str, ...]
    """What is wrong, each with the numbers; empty if every claim holds"""
    cost: int | None
    """None if ``choice`` names no plan"""
    value: Fraction | None
    bound: Fraction | None
    """No plan is worth more; None if the multiplier is useless"""

    @property
    def valid(self) -> bool:
        """The plan is feasible and nothing in the solution contradicts the problem."""
        return self.feasible and not self.faults

    @property
    def certified_gap(self) -> Fraction:
        """The plan misses the best by at most this much value.

        Raises:
            PlanError: there is no legal plan, or no multiplier, to certify.
        """
        if self.value is None or self.bound is None or not self.feasible:
            raise PlanError("nothing to certify: " + "; ".join(self.faults))
        return self.bound - self.value

    def require(self) -> None:
        """Raise PlanError with all faults, if there are any."""
        if not self.valid:
            raise PlanError("the plan fails its check: " + "; ".join(self.faults))


def check(problem: Problem, solution: Solution) -> Certificate:
    """Recompute cost, value and Lagrangian bound of ``solution`` exactly."""
    faults = _choice_faults(problem, solution)
    cost, value = (None, None) if faults else _totals(problem, solution)
    feasible = cost is not None and cost <= problem.budget
    if cost is not None and value is not None:
        if cost > problem.budget:
            faults.append(f"costs {cost}, {cost - problem.budget} over the budget")
        if cost != solution.cost:
            faults.append(f"claims to cost {solution.cost}, costs {cost}")
        if not _equals(solution.value, value):
            faults.append(f"claims to be worth {solution.value!r}, is worth {float(value)!r}")
    usable = _usable_budget(problem)
    if usable != solution.usable_budget:
        faults.append(f"claims a usable budget of {solution.usable_budget}, it is {usable}")
    faults += _claim_faults(solution)
    if not (math.isfinite(solution.multiplier) and solution.multiplier >= 0):
        faults.append(f"multiplier {solution.multiplier!r} is not a number >= 0")
        return Certificate(feasible, tuple(faults), cost, value, None)
    bound = _bound(problem, Fraction(solution.multiplier), usable)
    return Certificate(feasible, tuple(faults), cost, value, bound)


def _choice_faults(problem: Problem, solution: Solution) -> list[str]:
    if len(solution.choice) != len(problem.groups):
        return [f"{len(solution.choice)} choices for {len(problem.groups)} groups"]
    return [
        f"group {group.name!r}: choice {index!r} is not one of its {len(group.costs)} candidates"
        for group, index in zip(problem.groups, solution.choice, strict=True)
        if type(index) is not int or not 0 <= index < len(group.costs)
    ]


def _claim_faults(solution: Solution) -> list[str]:
    faults = []
    if not (math.isfinite(solution.bound) and solution.bound >= solution.value):
        faults.append(f"bound {solution.bound!r} is below the value {solution.value!r}")
    if not (math.isfinite(solution.gap) and solution.gap >= 0):
        faults.append(f"gap {solution.gap!r} is not a number >= 0")
    elif solution.status == "optimal" and solution.gap > solution.rounding_bound:
        faults.append(f"status optimal with a gap of {solution.gap!r}")
    elif solution.status not in ("optimal", "bounded"):
        faults.append(f"status {solution.status!r} is neither optimal nor bounded")
    return faults


def _totals(problem: Problem, solution: Solution) -> tuple[int, Fraction]:
    chosen = list(zip(problem.groups, solution.choice, strict=True))
    cost = sum(int(group.costs[index]) for group, index in chosen)
    return cost, sum((Fraction(float(group.values[index])) for group, index in chosen), Fraction(0))


def _equals(claimed: float, exact: Fraction) -> bool:
    return math.isfinite(claimed) and claimed == float(exact)


def _usable_budget(problem: Problem) -> int:
    least = [int(group.costs.min()) for group in problem.groups]
    step = 0
    seen = set()
    for group, low in zip(problem.groups, least, strict=True):
        if id(group.costs) not in seen:  # groups of one shape share their costs
            seen.add(id(group.costs))
            step = math.gcd(step, *(cost - low for cost in group.costs.tolist()))
    step = step or 1
    return sum(least) + (problem.budget - sum(least)) // step * step


def _bound(problem: Problem, multiplier: Fraction, usable: int) -> Fraction:
    room = usable - sum(int(group.costs.min()) for group in problem.groups)
    # One power of two that turns every value, and the multiplier, into a whole number.
    bits = multiplier.denominator.bit_length() - 1
    ratios = []
    for group in problem.groups:
        pairs = [value.as_integer_ratio() for value in group.values.tolist()]
        bits = max(bits, max(below.bit_length() for _, below in pairs) - 1)
        ratios.append(pairs)
    price = multiplier.numerator << (bits - multiplier.denominator.bit_length() + 1)
    total = price * usable
    for group, pairs in zip(problem.groups, ratios, strict=True):
        costs = group.costs.tolist()
        most = min(costs) + room
        total += max(
            (above << (bits - below.bit_length() + 1)) - price * cost
            for (above, below), cost in zip(pairs, costs, strict=True)
            if cost <= most
        )
    return Fraction(total, 1 << bits)
