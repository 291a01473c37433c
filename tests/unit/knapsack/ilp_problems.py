"""Problems that integer programs are tried on."""

from dataclasses import replace

import numpy as np

from gacfx.knapsack.limits import Implies, Limit
from gacfx.knapsack.problem import Problem

PROBLEM = Problem.from_groups([([10, 20, 30, 35], [-1.0, -0.6, -0.4, 0.0])] * 3, 80)
UNEVEN = Problem.from_groups([([8, 12, 20], [0, 1, 2]), ([2, 10], [0, 1])], 23)


def with_extras() -> Problem:
    """Three limits and a rule, all of which bind."""
    rng = np.random.default_rng(3)
    costs = np.arange(1, 9)
    pairs = [(costs, np.sqrt(costs) * rng.lognormal()) for _ in range(6)]
    names = [f"group{number}" for number in range(6)]
    limits = tuple(
        Limit(f"l{n}", 60, {name: rng.integers(1, 20, 8) for name in names}) for n in range(3)
    )
    rules = (Implies("group0", (5, 6, 7), "group1", (0, 7)),)
    return replace(Problem.from_groups(pairs, 33), limits=limits, rules=rules)


def weights(layers: int, ranks: int) -> Problem:
    """Pairs of weights, of which the first stays dense only if the second does."""
    rng = np.random.default_rng(0)
    rank = np.arange(1, ranks)
    pairs = []
    for _ in range(2 * layers):
        tail = rng.lognormal() * (1 - (rank / (1.2 * ranks)) ** rng.uniform(0.2, 0.7))
        step = int(rng.choice([5, 18]))
        pairs.append((1024 * step * np.append(rank, ranks), np.append(-step * tail, 0.0)))
    whole = Problem.from_groups(pairs, sum(int(costs[-1]) for costs, _ in pairs) * 7 // 10)
    dense = (ranks - 1,)
    rules = [Implies(f"group{2 * n}", dense, f"group{2 * n + 1}", dense) for n in range(layers)]
    return replace(whole, rules=tuple(rules))
