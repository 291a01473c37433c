"""Exact planning: one candidate per group under one budget, with a certificate. No torch here.

solution = solve(Problem.from_groups([(costs, values), ...], budget))
check(problem, solution).require()
"""

from gacfx.planning.certificate import Certificate, check
from gacfx.planning.core import PrecisionWarning, solve
from gacfx.planning.ilp import solve_ilp
from gacfx.planning.problem import Group, Problem, kept_budget
from gacfx.planning.solution import Solution

__all__ = [
    "Certificate",
    "Group",
    "PrecisionWarning",
    "Problem",
    "Solution",
    "check",
    "kept_budget",
    "solve",
    "solve_ilp",
]
