"""Small random problems with a budget and one further limit."""

import numpy as np

from gacfx.knapsack import Group, Limit, Problem


def limited_problem(seed: int, groups: int, size: int, high: int) -> Problem:
    """Rising values and independent costs under the limit; half of the largest fits either way."""
    rng = np.random.default_rng(seed)
    made, limits = [], {}
    for number in range(groups):
        costs = np.sort(rng.integers(0, high, size))
        made.append(Group(f"g{number}", costs, np.sort(rng.random(size))))
        limits[f"g{number}"] = rng.integers(0, high, size)
    most = groups * high // 2
    return Problem(tuple(made), most, (Limit("other", most, limits),))
