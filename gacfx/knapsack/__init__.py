"""Exact planning: one candidate per group under a budget, with a certificate. No torch here.

solution = solve(Problem.from_groups([(costs, values), ...], budget))
check(problem, solution).require()

For every budget at once see ``gacfx.knapsack.frontier``, for the papers' own methods
``gacfx.knapsack.paper``.
"""

from gacfx.knapsack.amounts import PrecisionWarning
from gacfx.knapsack.certificate.check import Certificate, check
from gacfx.knapsack.ilp.solve import solve_ilp
from gacfx.knapsack.limits import Implies, Limit, SameLabel
from gacfx.knapsack.problem import Group, Problem, kept_budget
from gacfx.knapsack.solution import Solution
from gacfx.knapsack.solver import solve

__all__ = [
    "Certificate",
    "Group",
    "Implies",
    "Limit",
    "PrecisionWarning",
    "Problem",
    "SameLabel",
    "Solution",
    "check",
    "kept_budget",
    "solve",
    "solve_ilp",
]
