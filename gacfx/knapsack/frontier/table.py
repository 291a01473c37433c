"""The exact optimum for every budget, for concave curves of equal steps.

    table = every_budget(problem)
    table.value_at(budget)

A group whose candidates cost the same step more each, and gain less each, is taken up step by step.
So groups of one step melt into one arm: all their increments, largest first. A model has a few
weight shapes and therefore a few arms, which join by (max,+) convolution (``maxplus.py``).

Increments are whole numbers on a grid of 2**60 steps, because then sums of thousands of them are
exact; only the few sums across arms are float64. ``rounding_bound`` says what the entries can be
off: about 1e-14 of the span between the cheapest plan and the most valuable one.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import refuse_extras
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.frontier.maxplus import ROUNDING, Arm, most_gain
from gacfx.knapsack.frontier.plans import spendable
from gacfx.knapsack.frontier.rising import Rising, rising
from gacfx.knapsack.normal_form.lattice import Flat, flatten
from gacfx.knapsack.problem import Problem

_MOST_BUDGETS = 2**27  # 1 GiB of float64, and as much again on the way
_ULP = 2.0**-52
_INSTEAD = "frontier(problem) takes any curve"


@dataclass(frozen=True, eq=False)
class Table:
    """The value of the best plan for every budget up to that of ``problem``. Read-only."""

    problem: Problem = field(repr=False)
    least: int
    """Cost of the cheapest plan, and the first budget"""
    quantum: int
    """From one budget to the next; what lies between buys no more"""
    value: FloatArray
    """[budgets] never falling. The last is that of the problem, or the most valuable plan's"""
    rounding_bound: float
    """No entry is farther than this from the optimum"""

    @property
    def budgets(self) -> IntArray:
        """[budgets] the budget of each entry."""
        return self.least + self.quantum * np.arange(len(self.value))

    def value_at(self, budget: int) -> float:
        """The value of the best plan within ``budget``.

        Raises:
            InfeasibleBudget: even the cheapest plan is over the budget.
            PlanError: not a whole number, or above the budget that the table was made for.
        """
        usable = spendable(self.problem, budget, self.least, self.quantum)
        if budget > self.problem.budget:
            raise PlanError(
                f"budget {budget}: the table ends at {self.problem.budget}, the budget of its "
                "problem; make it for a problem with a larger budget"
            )
        return float(self.value[min(usable // self.quantum, len(self.value) - 1)])


def every_budget(problem: Problem) -> Table:
    """The optimum for each budget from the cheapest plan to ``problem.budget``.

    Raises:
        InfeasibleBudget: even the cheapest plan is over the budget.
        PlanError: a group is not concave or its steps differ (the message names it), there are more
            than 2**27 budgets, or the problem has further limits or rules.
    """
    refuse_extras(problem, "every_budget")
    if not problem.groups:
        zero = np.zeros(1)
        zero.setflags(write=False)
        return Table(problem, 0, 1, zero, 0.0)
    flat = flatten(problem)
    curves = _Curves(problem, flat, rising(flat))
    curves.refuse_unequal_steps()
    bent = curves.bend()
    points = curves.points
    capacity = min(flat.room, int(points.cost[points.start[1:] - 1].sum())) // flat.quantum
    if capacity >= _MOST_BUDGETS:
        raise PlanError(
            f"{capacity + 1} budgets in steps of {flat.quantum}: a table holds at most "
            f"{_MOST_BUDGETS}; count costs in a coarser unit, or: {_INSTEAD}"
        )
    arms = curves.arms()
    value = points.values(most_gain(arms, capacity))
    off = points.worth(bent + points.groups) + ROUNDING * len(arms) * points.span
    off += 2 * _ULP * float(np.abs(value[[0, -1]]).max())
    value.setflags(write=False)
    return Table(problem, flat.usable_budget - flat.room, flat.quantum, value, off)


@dataclass(frozen=True)
class _Curves:
    """The steps from each candidate to the next one worth more, group by group."""

    problem: Problem
    flat: Flat
    points: Rising

    @cached_property
    def steps(self) -> IntArray:
        return self.points.steps

    @cached_property
    def owner(self) -> IntArray:
        return self.points.owner[self.steps]

    @cached_property
    def width(self) -> IntArray:
        return self.points.cost[self.steps] - self.points.cost[self.steps - 1]

    @cached_property
    def gain(self) -> IntArray:
        return self.points.gain[self.steps] - self.points.gain[self.steps - 1]

    def refuse_unequal_steps(self) -> None:
        """Raise PlanError if the candidates of a group are not evenly spaced."""
        uneven = self._pairs(self.width[1:] != self.width[:-1])
        if len(uneven):
            step = int(uneven[0])
            now, before = int(self.width[step]), int(self.width[step - 1])
            self._refuse(step, f"is a step of {now} after one of {before}", "equal steps of cost")

    def bend(self) -> float:
        """What sorting the gains of a group adds to them at most, summed over groups.

        It is 0 for concave curves and next to nothing for those that are straight but for rounding.

        Raises:
            PlanError: more than the rounding of the values of a group explains.
        """
        rises = self._pairs(self.gain[1:] > self.gain[:-1])
        total = 0.0
        for group in np.unique(self.owner[rises]).tolist():
            first, last = np.searchsorted(self.owner, [group, group + 1])
            gain = self.gain[first:last]
            added = float(np.cumsum(np.sort(gain)[::-1] - gain).max())
            if added > len(gain) * self._rounding(group):
                worst = int(first) + 1 + int(np.argmax(np.diff(gain)))
                now, before = (self.points.worth(float(self.gain[w])) for w in (worst, worst - 1))
                why = f"gains {now:.6g} after a step that gained {before:.6g}"
                self._refuse(worst, why, "concave curves")
            total += added
        return total

    def arms(self) -> list[Arm]:
        """One arm for each width of step, in quanta."""
        return [
            Arm(int(width) // self.flat.quantum, np.sort(self.gain[self.width == width])[::-1])
            for width in np.unique(self.width)
        ]

    def _pairs(self, wrong: NDArray[np.bool_]) -> IntArray:
        """Indices of the later steps of ``wrong`` pairs of neighbours in one group."""
        return np.flatnonzero(wrong & (self.owner[1:] == self.owner[:-1])) + 1

    def _rounding(self, group: int) -> float:
        """Grid steps that float64 and the grid can move the gain of one step."""
        largest = float(np.abs(self.problem.groups[group].values).max())
        return 1.0 + math.ldexp(_ULP * largest, self.points.exponent)

    def _refuse(self, step: int, why: str, needs: str) -> NoReturn:
        """Raise PlanError: the candidate at the end of ``step`` breaks the curve."""
        group, point = int(self.owner[step]), int(self.steps[step])
        owner, index = self.problem.groups[group], int(self.points.candidate[point])
        raise PlanError(
            f"group {owner.name!r}: candidate {index}, of cost {owner.costs[index]}, {why}; "
            f"every_budget needs {needs}; {_INSTEAD}"
        )
