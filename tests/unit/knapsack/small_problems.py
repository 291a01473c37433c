"""Small random problems with limits and rules, and the plain truth about them."""

import math
from collections.abc import Callable

import numpy as np

from gacfx.knapsack.arrays import FloatArray
from gacfx.knapsack.limits import Implies, Label, Limit, Rule, SameLabel
from gacfx.knapsack.problem import Group, Problem
from tests.trials.oracles import best_of_all, keeps_all, labels_of

__all__ = ["LABELS", "brute_force", "keeps_all", "labels_of", "random_problem"]

LABELS: tuple[Label, ...] = (8, 16, 24, "dense")


def brute_force(problem: Problem) -> float:
    """Best value over all plans, correctly rounded; -inf if there is none."""
    best = best_of_all(problem)
    return -math.inf if best is None else float(best)


def random_problem(
    rng: np.random.Generator, *, limits: int = 2, rules: int = 3, ties: bool = True
) -> Problem:
    """Up to five groups, with labels or without, costs on a lattice or off it, mostly feasible."""
    unit = int(rng.choice([1, 7, 10**6, 2**35]))
    groups = tuple(_group(rng, f"g{number}", unit) for number in range(int(rng.integers(1, 6))))
    found: list[Rule] = [_implies(rng, groups) for _ in range(int(rng.integers(0, rules + 1)))]
    if ties and rng.random() < 0.3:
        tied = rng.permutation(len(groups))[: int(rng.integers(1, 4))]
        found.append(SameLabel(tuple(groups[index].name for index in tied)))
    extra = tuple(_limit(rng, f"l{n}", groups) for n in range(int(rng.integers(0, limits + 1))))
    most = sum(int(group.costs.max()) for group in groups)
    return Problem(groups, int(rng.uniform(0.4, 1.1) * most), extra, tuple(found))


def _group(rng: np.random.Generator, name: str, unit: int) -> Group:
    count = int(rng.integers(1, 5))
    costs = rng.integers(0, 40, count) * unit
    if rng.random() < 0.3:
        costs += rng.integers(0, unit, count)
    kinds: list[Callable[[], FloatArray]] = [
        lambda: rng.normal(size=count),
        lambda: rng.integers(-5, 5, count).astype(np.float64),
        lambda: 1e-9 * np.sqrt(costs) * rng.random(count),
        lambda: costs.astype(np.float64),
    ]
    values = kinds[int(rng.integers(len(kinds)))]()
    order = rng.permutation(len(LABELS))[:count]
    return Group(name, costs, values, tuple(LABELS[n] for n in order) if rng.random() < 0.7 else ())


def _implies(rng: np.random.Generator, groups: tuple[Group, ...]) -> Implies:
    group, then = (groups[int(rng.integers(len(groups)))] for _ in range(2))
    labels, then_labels = (_some(rng, labels_of(one)) for one in (group, then))
    return Implies(group.name, labels, then.name, then_labels if rng.random() < 0.9 else ())


def _some(rng: np.random.Generator, labels: tuple[Label, ...]) -> tuple[Label, ...]:
    count = int(rng.integers(1, len(labels) + 1))
    return tuple(labels[index] for index in rng.permutation(len(labels))[:count])


def _limit(rng: np.random.Generator, name: str, groups: tuple[Group, ...]) -> Limit:
    costs = {g.name: rng.integers(0, 30, len(g.costs)) for g in groups if rng.random() < 0.8}
    most = sum(int(row.max()) for row in costs.values())
    return Limit(name, int(rng.uniform(0.4, 1.0) * most), costs)
