"""What every way to plan refuses, the warning that they share, and how they share their time."""

import math
import time

import numpy as np

from gacfx.errors import PlanError
from gacfx.knapsack.problem import Problem


class PrecisionWarning(UserWarning):
    """Values differ by so many orders of magnitude that the smallest ones were lost."""


def refuse_extras(problem: Problem, who: str) -> None:
    """Raise PlanError if the problem has limits or rules, which ``who`` cannot keep."""
    if problem.limits or problem.rules:
        raise PlanError(f"{who} knows neither limits nor rules; gacfx.knapsack.solve does")


def check_amounts(**amounts: float | None) -> None:
    """Raise PlanError for an amount that is not a number >= 0; None is none."""
    for name, number in amounts.items():
        real = isinstance(number, int | float | np.integer) and not isinstance(number, bool)
        if number is not None and not (real and number >= 0):
            raise PlanError(f"{name} {number!r}: must be a number >= 0")


def deadline_of(time_limit: float | None) -> float:
    """The moment at which to stop, in ``time.perf_counter()``; infinity: never."""
    return math.inf if time_limit is None else time.perf_counter() + time_limit


def seconds_left(deadline: float) -> float:
    """Until the deadline; never negative."""
    return max(0.0, deadline - time.perf_counter())
