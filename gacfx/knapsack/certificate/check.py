"""Check a solution in exact arithmetic, sharing nothing with the solver that made it.

For any multiplier lam >= 0 no plan within the budget is worth more than

    lam * usable_budget + sum over groups of max_j (value_j - lam * cost_j)

and with further limits L and multipliers mu >= 0 none is worth more than the same sum with
``mu * most`` added and ``mu * cost of j under L`` taken off inside the maximum. Groups that must
take one label have one maximum, over their sums. Other rules only take plans away, so the bound
holds with them; they are checked on the plan itself.

The usable budget is the largest total that the costs can form without passing the budget, as far as
their greatest common divisor tells; candidates that do not fit even beside the cheapest of all
other groups are left out. Floats are exact fractions of two, so the bound is computed in whole
numbers of one common fraction, but for candidates that float64 can exclude for sure.

What a solution claims beyond that, that it is the best or how far from it, must not contradict
itself, and no exchange of a single candidate may refute it (``claims``).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from gacfx.errors import PlanError
from gacfx.knapsack.certificate.bound import lagrangian_bound
from gacfx.knapsack.certificate.candidates import candidates_of
from gacfx.knapsack.certificate.claims import claim_faults, refutation
from gacfx.knapsack.limits import Implies
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution


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
    """No plan is worth more; None if the multiplier is useless, or if there is no plan"""

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
        over_limits = _limit_faults(problem, solution)
        feasible = feasible and not over_limits
        faults += over_limits
    found = candidates_of(problem)
    usable = found.usable_budget(problem.budget)
    if usable != solution.usable_budget:
        faults.append(f"claims a usable budget of {solution.usable_budget}, it is {usable}")
    faults += claim_faults(solution)
    if value is not None and not faults:
        faults += refutation(problem, solution, value, found)
    useless = _multiplier_faults(problem, solution)
    if useless:
        return Certificate(feasible, (*faults, *useless), cost, value, None)
    bound = lagrangian_bound(problem, solution, found)
    if bound is None:
        faults.append("no plan keeps the budget and the rules")
    return Certificate(feasible, tuple(faults), cost, value, bound)


def _choice_faults(problem: Problem, solution: Solution) -> list[str]:
    if len(solution.choice) != len(problem.groups):
        return [f"{len(solution.choice)} choices for {len(problem.groups)} groups"]
    return [
        f"group {group.name!r}: choice {index!r} is not one of its {len(group.costs)} candidates"
        for group, index in zip(problem.groups, solution.choice, strict=True)
        if type(index) is not int or not 0 <= index < len(group.costs)
    ]


def _totals(problem: Problem, solution: Solution) -> tuple[int, Fraction]:
    chosen = list(zip(problem.groups, solution.choice, strict=True))
    cost = sum(int(group.costs[index]) for group, index in chosen)
    return cost, sum((Fraction(float(group.values[index])) for group, index in chosen), Fraction(0))


def _equals(claimed: float, exact: Fraction) -> bool:
    return math.isfinite(claimed) and claimed == float(exact)


def _limit_faults(problem: Problem, solution: Solution) -> list[str]:
    """Limits that are passed and rules that are broken by a choice that is legal by itself."""
    picks = {g.name: index for g, index in zip(problem.groups, solution.choice, strict=True)}
    faults = []
    for limit in problem.limits:
        spent = sum(int(costs[picks[name]]) for name, costs in limit.costs.items())
        if spent > limit.most:
            faults.append(f"{limit.name}: {spent}, {spent - limit.most} over the limit")
    labels = {
        group.name: group.labels[picks[group.name]] if group.labels else picks[group.name]
        for group in problem.groups
    }
    for rule in problem.rules:
        if isinstance(rule, Implies):
            broken = labels[rule.group] in rule.labels
            broken = broken and labels[rule.then_group] not in rule.then_labels
        else:
            broken = len({labels[name] for name in rule.groups}) > 1
        if broken:
            faults.append(f"breaks {rule}")
    return faults


def _multiplier_faults(problem: Problem, solution: Solution) -> list[str]:
    faults = []
    if len(solution.limit_multipliers) != len(problem.limits):
        count = len(solution.limit_multipliers)
        faults.append(f"{count} limit multipliers for {len(problem.limits)} limits")
    for number in (solution.multiplier, *solution.limit_multipliers):
        if not (math.isfinite(number) and number >= 0):
            faults.append(f"multiplier {number!r} is not a number >= 0")
    return faults
