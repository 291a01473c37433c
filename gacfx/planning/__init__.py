"""Exact planning: one candidate per group under a budget, with a certificate. No torch here.

solution = solve(Problem.from_groups([(costs, values), ...], budget))
check(problem, solution).require()

For every budget at once see ``gacfx.planning.frontier``, for the papers' own methods
``gacfx.planning.paper``.
"""

from gacfx.planning.amounts import PrecisionWarning
from gacfx.planning.blocks import Block
from gacfx.planning.certificate.check import Certificate, check
from gacfx.planning.ilp.solve import solve_ilp
from gacfx.planning.limits import Implies, Limit, SameLabel
from gacfx.planning.problem import Group, Problem, kept_budget
from gacfx.planning.solution import Solution
from gacfx.planning.solver import solve

__all__ = [
    "Block",
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
