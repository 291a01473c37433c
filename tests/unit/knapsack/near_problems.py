"""Candidates near a Lagrangian bound, none of them fixed, and the best that can be made of them."""

import itertools
from dataclasses import replace

import numpy as np

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form import normal_form
from gacfx.knapsack.one_budget.lp_relaxation import relax
from gacfx.knapsack.one_budget.reduced_costs import Unfixed, unfixed


def near_of(seed: int, whole: bool = False, stretch: float = 1.0) -> Unfixed:
    """All candidates of seven groups; any multiplier will do."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(7):
        costs = np.sort(rng.integers(0, 40, 5))
        noise = rng.integers(0, 9, 5) if whole else rng.normal(0, 2, 5)
        pairs.append((costs, np.sort(costs + noise)))
    form = normal_form(Problem.from_groups(pairs, int(sum(int(c[3]) for c, _ in pairs) * 0.7)))
    relaxed = replace(relax(form), better=form.start[:-1])  # so poor that nothing is fixed
    return unfixed(form, replace(relaxed, multiplier=relaxed.multiplier * stretch))


def best_gain(found: Unfixed, exponent: int) -> float:
    """The largest gain of any plan within the budget, in grid steps."""
    base = found.base[found.owner]
    costs = (found.cost - found.cost[base]).tolist()
    gains = np.rint(np.ldexp(found.value - found.value[base], exponent)).tolist()
    best = {0: 0.0}
    for begin, end in itertools.pairwise(found.ends.tolist()):
        after: dict[int, float] = {}
        for (spent, gained), pick in itertools.product(best.items(), range(begin, end)):
            cost = spent + costs[pick]
            after[cost] = max(after.get(cost, -np.inf), gained + gains[pick])
        best = after
    return max(gain for cost, gain in best.items() if cost <= found.left)
