"""The Lagrangian bound of a problem in exact arithmetic, at the multipliers of a solution."""

from fractions import Fraction

import numpy as np

from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.certificate.candidates import Candidates
from gacfx.knapsack.certificate.claims import named
from gacfx.knapsack.certificate.rules import Worth, best_total, classes, links, together
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution


def lagrangian_bound(problem: Problem, solution: Solution, found: Candidates) -> Fraction | None:
    """No plan is worth more; None: there is no plan."""
    prices = [solution.multiplier, *solution.limit_multipliers]
    usable = found.usable_budget(problem.budget)
    fits = found.fitting(usable)
    tied = {name for rule in problem.rules for name in named(rule)}
    # Under a rule the best of a group may be out of reach, so all its candidates count.
    is_tied = found.spread(np.array([group.name in tied for group in problem.groups]))
    kept = np.flatnonzero(np.where(is_tied, fits, found.maybe_best(prices, fits)))
    exact, bits = _exact(found, prices, kept)
    edges = np.searchsorted(kept, found.start).tolist()
    places = kept.tolist()
    worth: list[Worth] = []
    for group, start, begin, end in zip(
        problem.groups, found.start.tolist(), edges, edges[1:], strict=False
    ):
        labels = group.labels or range(len(group.costs))
        worth.append({labels[places[i] - start]: exact[i] for i in range(begin, end)})
    sets = classes(problem)
    joint = [together([worth[index] for index in members]) for members in sets]
    best = best_total(joint, links(problem, sets))
    if best is None:
        return None
    rooms = [usable, *(limit.most for limit in problem.limits)]
    priced = sum(Fraction(price) * room for price, room in zip(prices, rooms, strict=True))
    return Fraction(best, 1 << bits) + priced


def _exact(found: Candidates, prices: list[float], kept: IntArray) -> tuple[list[int], int]:
    """([kept] value less what is paid at the prices, in units of ``2 ** -bits``, and the bits)."""
    ratios = [value.as_integer_ratio() for value in found.value[kept].tolist()]
    paid = [price.as_integer_ratio() for price in prices]
    bits = max((below for _, below in (*ratios, *paid)), default=1).bit_length() - 1
    exact = [above << (bits - below.bit_length() + 1) for above, below in ratios]
    for (above, below), row in zip(paid, found.costs, strict=True):
        price = above << (bits - below.bit_length() + 1)
        if price:
            exact = [
                worth - price * cost for worth, cost in zip(exact, row[kept].tolist(), strict=True)
            ]
    return exact, bits
