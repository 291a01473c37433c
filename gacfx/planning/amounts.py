"""What every way to plan refuses, and the warning that they share."""

import numpy as np

from gacfx.errors import PlanError
from gacfx.planning.problem import Problem


class PrecisionWarning(UserWarning):
    """Values differ by so many orders of magnitude that the smallest ones were lost."""


def refuse_extras(problem: Problem, who: str) -> None:
    """Raise PlanError if the problem has limits or rules, which ``who`` cannot keep."""
    if problem.limits or problem.rules:
        raise PlanError(f"{who} knows neither limits nor rules; gacfx.planning.solve does")


def check_amounts(**amounts: float | None) -> None:
    """Raise PlanError for an amount that is not a number >= 0; None is none."""
    for name, number in amounts.items():
        real = isinstance(number, int | float | np.integer) and not isinstance(number, bool)
        if number is not None and not (real and number >= 0):
            raise PlanError(f"{name} {number!r}: must be a number >= 0")
