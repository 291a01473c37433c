"""Exact planning: one candidate per group under one budget, with a certificate. No torch here."""

from gacfx.planning.core import PrecisionWarning, solve
from gacfx.planning.problem import Group, Problem, kept_budget
from gacfx.planning.solution import Solution

__all__ = ["Group", "PrecisionWarning", "Problem", "Solution", "kept_budget", "solve"]
