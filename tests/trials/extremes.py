"""Problems at the far ends of what is legal, in any size: ``python -m tests.trials.extremes NAME``.

The command solves one of them in a process of its own and prints what came out, and the most memory
that the process held.
"""

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

from benchmarks.planning_problems import rows_of
from gacfx.knapsack import PrecisionWarning, Problem, check, solve
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Limit

_COLUMNS = 100
"""Candidates of a group, where there are many groups"""


def no_common_step(candidates: int) -> Problem:
    """Subset sums: every value is its cost, and the costs have no common divisor."""
    costs = _odd_costs(candidates)
    return _rows(costs, costs.astype(np.float64))


def no_common_step_hard(candidates: int) -> Problem:
    """Even costs but for one, under an odd budget: it can hardly be met."""
    costs = 2 * _odd_costs(candidates)
    costs[0, 0] += 1
    problem = _rows(costs, costs.astype(np.float64))
    return Problem(problem.groups, problem.budget | 1)


def strong(candidates: int) -> Problem:
    """The hard family of Pisinger: values are costs and a constant for each step, cumulated."""
    rng = np.random.default_rng(1)
    steps = rng.integers(1, 1000, (max(1, candidates // 10), 10))
    return _rows(np.cumsum(steps, axis=1), np.cumsum(steps + 10.0, axis=1))


def equal_values(candidates: int) -> Problem:
    """Every candidate is worth the same, so the cheapest are best."""
    costs = _odd_costs(candidates)
    return _rows(costs, np.full(costs.shape, 0.1))


def equal_costs(candidates: int) -> Problem:
    """Every candidate costs the same, so there is nothing to save."""
    shape = _odd_costs(candidates).shape
    values = np.random.default_rng(2).normal(size=shape)
    return _rows(np.full(shape, 7), values)


def negative(candidates: int) -> Problem:
    """Losses of very different sizes, which fall as candidates get dearer."""
    costs = np.sort(_odd_costs(candidates), axis=1)
    rng = np.random.default_rng(3)
    return _rows(costs, -np.exp(rng.normal(0, 3, costs.shape)) / costs)


def tiny(candidates: int) -> Problem:
    """Values around 1e-300."""
    return _curves(candidates, 1e-300)


def huge(candidates: int) -> Problem:
    """Values around 1e190; from 1e200 on they are refused."""
    return _curves(candidates, 1e190)


def tiny_beside_huge(candidates: int) -> Problem:
    """Groups whose values no float64 can hold together."""
    problem = _curves(candidates, 1.0)
    scales = [1e150, 1e-200] * len(problem.groups)
    pairs = [(g.costs, g.values * scale) for g, scale in zip(problem.groups, scales, strict=False)]
    return Problem.from_groups(pairs, problem.budget)


def single_candidates(candidates: int) -> Problem:
    """As many groups as candidates: nothing to choose."""
    rng = np.random.default_rng(4)
    costs = rng.integers(0, 10**6, (candidates // 10, 1))
    return Problem.from_groups(rows_of(costs, rng.normal(size=costs.shape)), int(costs.sum()))


def one_group(candidates: int) -> Problem:
    """All candidates in one group, in no order."""
    rng = np.random.default_rng(5)
    costs = rng.permutation(candidates) + 10**6
    return Problem.from_groups([(costs, rng.normal(size=candidates))], 10**6 + candidates // 2)


def two_budgets(candidates: int) -> Problem:
    """Both budgets without a common step, about half full."""
    problem = no_common_step(candidates // 10)
    rng = np.random.default_rng(6)
    names = [group.name for group in problem.groups]
    costs = {name: rng.integers(1, 10**7, _COLUMNS) for name in names}
    most = sum(int(row.min()) + int(row.max()) for row in costs.values()) // 2
    return Problem(problem.groups, problem.budget, (Limit("second", most, costs),))


EXTREMES: dict[str, Callable[[int], Problem]] = {
    make.__name__: make
    for make in (
        *(no_common_step, no_common_step_hard, strong, equal_values, equal_costs, negative),
        *(tiny, huge, tiny_beside_huge, single_candidates, one_group, two_budgets),
    )
}


def measured(name: str, candidates: int, time_limit: float | None) -> dict[str, float | str]:
    """What solving one of them gives and takes."""
    problem = EXTREMES[name](candidates)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        solution = solve(problem, time_limit=time_limit)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(problem, solution).require()
    return {
        "status": solution.status,
        "relative_gap": solution.gap / max(abs(solution.value), 1e-300),
        "rounding_bound": solution.rounding_bound,
        "seconds": round(seconds, 3),
        "peak_mib": peak // 2**10,
    }


def _odd_costs(candidates: int) -> IntArray:
    """[groups, candidates] whole numbers without a common divisor."""
    groups = max(1, candidates // _COLUMNS)
    return np.random.default_rng(0).integers(1, 10**7, (groups, _COLUMNS))


def _rows(costs: IntArray, values: FloatArray) -> Problem:
    """The problem of these rows, with half of what can be spent as the budget."""
    budget = int(costs.min(axis=1).sum() + costs.max(axis=1).sum()) // 2
    return Problem.from_groups(rows_of(costs, values), budget)


def _curves(candidates: int, scale: float) -> Problem:
    costs = np.sort(_odd_costs(candidates), axis=1)
    factor = np.random.default_rng(7).lognormal(size=(len(costs), 1))
    return _rows(costs, scale * factor * np.sqrt(costs))


if __name__ == "__main__":
    name, candidates, *limit = sys.argv[1:]
    print(json.dumps(measured(name, int(candidates), float(limit[0]) if limit else None)))
