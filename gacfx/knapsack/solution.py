"""A solved problem: what was chosen, what it is worth, and how far from the best it can be."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Solution:
    """One candidate per group, with the facts that ``certificate.check`` re-computes.

    ``bound``, ``gap`` and ``status`` are the solver's claim. What anybody can verify without
    trusting the solver is the bound that follows from ``multiplier`` alone.
    """

    choice: tuple[int, ...]
    """[groups] index into the candidates of each group, in the order they were given."""
    cost: int
    value: float
    """Sum of the chosen values, correctly rounded."""
    bound: float
    """No plan within the budget is worth more (claimed)."""
    gap: float
    """``bound - value``, in the unit of the values; never negative."""
    status: Literal["optimal", "bounded"]
    """optimal: the search was exhausted, so gap <= rounding_bound; bounded: stopped early."""
    multiplier: float
    """Lagrange multiplier >= 0, value per unit of cost."""
    usable_budget: int
    """The largest total cost that the candidates can reach in steps of the quantum."""
    rounding_bound: float
    """Most value that an optimal plan can miss because values were put on a grid; often 0."""
    stats: dict[str, float | int]
    """candidates, groups, quantum, capacity, core_groups, max_states, seconds, ..."""
    limit_multipliers: tuple[float, ...] = ()
    """[limits] Lagrange multipliers >= 0 of the problem's limits, in their order."""
