"""Plans for every budget, in one pass over the hulls of all groups.

    best = frontier(problem)
    plan = best.plan_at(budget)

Start from the cheapest plan and take all steps along the hulls, steepest first. Each plan between
two steps is the best of all for a budget equal to its own cost. Between two of them no plan is
worth more than the straight line, so every other budget has a certified gap; its plan takes of the
next step what fits. Any curves will do: hulls that skip many candidates only make the gaps wider.

Values are sums of whole numbers on a grid (``hull.py``), the same in any order of adding.
"""

import math
from dataclasses import dataclass, field, replace
from operator import index as as_index

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import refuse_extras
from gacfx.knapsack.arrays import LARGEST_COST, FloatArray, IntArray
from gacfx.knapsack.frontier.hull import hulls
from gacfx.knapsack.frontier.increments import Increments, frozen, increments
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution

_FLOAT = 2.0**-50
"""Of the largest value: what the float64 results of a few sums can be off"""
_TINY = 2.0**-1074
"""What a multiplier can be off when it is next to nothing"""


@dataclass(frozen=True)
class Point:
    """What one budget buys."""

    budget: int
    cost: int
    value: float
    bound: float
    """No plan within the budget is worth more (certified)"""
    gap: float
    """``bound - value``; the rounding bound if the plan is optimal"""
    multiplier: float
    """Value per unit of cost of the next step; 0 if there is none"""


@dataclass(frozen=True, eq=False)
class Frontier:
    """Plans from the cheapest to the most valuable, each the best one for its own cost.

    The budget of ``problem`` plays no part. Arrays are read-only.
    """

    problem: Problem = field(repr=False)
    cost: IntArray
    """[plans] ascending"""
    value: FloatArray
    """[plans] never falling"""
    multiplier: FloatArray
    """[plans] value per unit of cost of the step that follows, never rising; 0 for the last plan"""
    quantum: int
    """Budgets between two multiples of it above the cheapest plan buy the same"""
    rounding_bound: float
    """Most value by which a plan that is called optimal can miss the best"""
    steps: Increments = field(repr=False)

    def point_at(self, budget: int) -> Point:
        """What ``budget`` buys, without the choice.

        Raises:
            InfeasibleBudget: even the cheapest plan is over the budget.
            PlanError: the budget is not a whole number.
        """
        spot = self._spot(budget)
        value = float(self.value[spot.plan]) + spot.added
        price = float(self.multiplier[spot.plan])
        gap = max(spot.gap, self.rounding_bound)  # the value comes off the grid
        return Point(budget, spot.cost, value, value + gap, gap, price)

    def plan_at(self, budget: int) -> Solution:
        """The plan of ``point_at`` with its choice, in time that grows with the groups only.

        It is "optimal" when nothing usable of the budget is left, or nothing is left to buy. The
        stats name the plan of the frontier that it starts from.

        Raises:
            InfeasibleBudget: even the cheapest plan is over the budget.
            PlanError: the budget is not a whole number.
        """
        spot = self._spot(budget)
        position = self.steps.positions_of(spot.plan)
        position[spot.group] = spot.point
        choice = tuple(self.steps.candidate[position].tolist())
        picks = zip(self.problem.groups, choice, strict=True)
        value = math.fsum(float(group.values[index]) for group, index in picks)
        return Solution(
            choice=choice,
            cost=spot.cost,
            value=value,
            bound=value + spot.gap,
            gap=spot.gap,
            status="optimal" if spot.gap <= self.rounding_bound else "bounded",
            multiplier=float(self.multiplier[spot.plan]),
            usable_budget=spot.usable_budget,
            rounding_bound=self.rounding_bound,
            stats={"groups": len(choice), "plans": len(self.cost), "plan": spot.plan},
        )

    def _spot(self, budget: int) -> "_Spot":
        least, most = int(self.cost[0]), int(self.cost[-1])
        usable = least + spendable(self.problem, budget, least, self.quantum)
        plan = int(np.searchsorted(self.cost, min(usable, most), side="right")) - 1
        cost = int(self.cost[plan])
        if cost == most:  # it holds the most valuable candidate of every group
            return _Spot(plan, usable, cost, 0.0, 0.0, slice(0), 0)
        before, point = self.steps.part(plan, usable - cost)
        group = int(np.searchsorted(self.steps.start, point, side="right")) - 1
        values = self.problem.groups[group].values
        added = float(values[self.steps.candidate[point]] - values[self.steps.candidate[before]])
        above = float(self.multiplier[plan]) * (usable - cost) + self.rounding_bound
        cost += int(self.steps.cost[point] - self.steps.cost[before])
        return _Spot(plan, usable, cost, added, max(0.0, above - added), group, point)


@dataclass(frozen=True)
class _Spot:
    """Where a budget lies between the plans."""

    plan: int
    """The richest within the budget"""
    usable_budget: int
    cost: int
    """With what fits of the next step"""
    added: float
    """Value that this part of a step adds to the plan"""
    gap: float
    group: int | slice
    """Whose step it is; an empty slice after the last plan"""
    point: int
    """Where this part of a step ends"""


def frontier(problem: Problem) -> Frontier:
    """All plans that are best for their own cost, as far as they lie on the hulls.

    Raises:
        PlanError: the problem has further limits or rules.
    """
    refuse_extras(problem, "frontier")
    if not problem.groups:
        none, zero = frozen(np.zeros(0, np.int64)), frozen(np.zeros(1, np.int64))
        steps = Increments(zero, none, none, none, none, none, none)
        return Frontier(problem, zero, frozen(np.zeros(1)), frozen(np.zeros(1)), 1, 0.0, steps)
    form = normal_form(replace(problem, budget=LARGEST_COST - 1))
    found = hulls(form)
    steps, price = increments(found)
    least = form.least[0]
    cost = np.append(least, least + np.cumsum(steps.cost[steps.after] - steps.cost[steps.before]))
    gain = np.append(0, np.cumsum(found.gain[steps.after] - found.gain[steps.before]))
    value = np.ldexp(gain.astype(np.float64), -found.exponent) + found.base
    # In each group the best point may lie above its chord and the chosen one below it.
    rounding = math.ldexp(4 * found.dust, -found.exponent)
    rounding += _FLOAT * float(np.abs(value[[0, -1]]).max()) + _TINY * float(cost[-1])
    return Frontier(
        problem, frozen(cost), frozen(value), frozen(price), form.quantum[0], rounding, steps
    )


def points(best: Frontier, count: int) -> tuple[Point, ...]:
    """At most ``count`` budgets, evenly spread from the cheapest plan to the most valuable one.

    Raises:
        PlanError: ``count`` is not a whole number >= 2.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise PlanError(f"count {count!r}: must be an int >= 2; two points are the two ends")
    low, high, last = int(best.cost[0]), int(best.cost[-1]), count - 1
    budgets = {low + (high - low) * number // last for number in range(count)}
    return tuple(best.point_at(budget) for budget in sorted(budgets))


def spendable(problem: Problem, budget: int, least: int, quantum: int) -> int:
    """What candidates can use of ``budget`` above the cost ``least`` of the cheapest plan.

    Raises:
        InfeasibleBudget: the budget is below ``least``.
        PlanError: the budget is not a whole number.
    """
    whole = isinstance(budget, int | np.integer) and not isinstance(budget, bool)
    if not whole or budget < least:
        normal_form(replace(problem, budget=budget))  # raises, and says what is wrong
    return (as_index(budget) - least) // quantum * quantum
