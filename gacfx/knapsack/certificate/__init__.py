"""Checks of a solution in exact arithmetic; shares no code with the solvers."""
