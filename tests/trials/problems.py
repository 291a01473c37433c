"""Small random problems of every kind that the planner knows, some of them without any plan.

One generator for the tests of every day and for the long run (``make test-long``): both call
``KINDS[kind](rng, number)``, where ``number`` walks through the modes of values.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.planning_problems import rows_of
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Implies, Label, Limit, SameLabel
from gacfx.knapsack.problem import Group, Problem
from tests.trials.oracles import labels_of
from tests.unit.knapsack import small_problems


def nasty_values(rng: np.random.Generator, kind: int, costs: IntArray) -> FloatArray:
    """Ties, flat, falling, tiny, huge and offset values, and the jump to a dense weight."""
    count = len(costs)
    kinds: list[Callable[[], NDArray[Any]]] = [
        lambda: rng.integers(-20, 20, count).astype(np.float64),
        lambda: rng.normal(size=count),
        lambda: costs.astype(np.float64),
        lambda: costs + 0.1 * rng.normal(size=count),
        lambda: 1e9 * np.sqrt(costs) * rng.lognormal(size=count),
        lambda: 1.5e-12 * rng.integers(1, 3, count).astype(np.float64),
        lambda: 1e-300 * np.sqrt(costs),
        lambda: -rng.lognormal(0, 8, count),
        lambda: 1e15 + rng.normal(size=count),
        lambda: np.where(costs == costs.max(), 0.0, -1 - rng.random(count)),
    ]
    return kinds[kind % len(kinds)]()


def more_values(rng: np.random.Generator, kind: int, costs: IntArray) -> FloatArray:
    """``nasty_values``, and concave, noisy, linear, constant, huge and mixed ones."""
    count = len(costs)
    kinds: list[Callable[[], NDArray[Any]]] = [
        lambda: rng.lognormal() * np.sqrt(costs),
        lambda: rng.lognormal() * np.sqrt(costs) * rng.lognormal(0, 0.3, count),
        lambda: float(rng.integers(1, 9)) * (costs - float(rng.integers(0, 50))),
        lambda: np.full(count, rng.choice([0.0, -3.0, 0.1])),
        lambda: -costs.astype(np.float64),
        lambda: 1e199 * rng.normal(size=count) / 9,
        lambda: rng.normal(size=count) * float(rng.choice([1e-6, 1.0, 1e6])),
        lambda: rng.normal(size=count) * 10.0 ** rng.uniform(-20, 20),
        lambda: 1e-290 * rng.integers(-9, 10, count),
    ]
    kind %= len(kinds) + 10
    return nasty_values(rng, kind, costs) if kind < 10 else kinds[kind - 10]()


def random_problem(rng: np.random.Generator, kind: int, most_groups: int = 8) -> Problem:
    """Small problems with unsorted and equal costs, on a lattice or off it."""
    step, high = int(rng.choice([1, 7, 24])), int(rng.choice([3, 10, 50, 300]))
    pairs = []
    for _ in range(int(rng.integers(1, most_groups + 1))):
        costs = rng.integers(0, high, int(rng.integers(1, 8)))
        pairs.append((costs * step, nasty_values(rng, kind, costs)))
    most = sum(int(costs.max()) for costs, _ in pairs)
    return Problem.from_groups(pairs, int(rng.uniform(0, 1.1) * most))


def one_budget(rng: np.random.Generator, number: int) -> Problem:
    """Up to six groups; costs in steps, in steps from odd bases, without a common step, or huge."""
    pairs: list[tuple[ArrayLike, ArrayLike]] = []
    lattice = random_costs(rng)
    for _ in range(int(rng.integers(1, 7))):
        costs = lattice(int(rng.integers(1, 6)))
        pairs.append((costs, more_values(rng, number, costs)))
    problem = Problem.from_groups(pairs, 0)
    return replace(problem, budget=random_budget(rng, [group.costs for group in problem.groups]))


def random_costs(rng: np.random.Generator) -> Callable[[int], IntArray]:
    """Count -> so many costs of one lattice."""
    step = int(rng.choice([1, 7, 24, 8192]))
    high = int(rng.choice([3, 10, 50, 300]))
    lattices: list[Callable[[int], IntArray]] = [
        lambda count: step * rng.integers(0, high, count),
        lambda count: step * rng.integers(0, high, count) + int(rng.integers(0, step)),
        lambda count: rng.integers(0, 10**6, count),
        lambda count: rng.integers(0, 2**50, count),
        lambda count: np.full(count, step),
    ]
    return lattices[int(rng.choice(len(lattices), p=[0.4, 0.25, 0.2, 0.1, 0.05]))]


def random_budget(rng: np.random.Generator, arrays: list[IntArray]) -> int:
    """Between a little less than the cheapest plan and more than the dearest, or exactly a plan."""
    least = sum(int(array.min()) for array in arrays)
    most = sum(int(array.max()) for array in arrays)
    some = sum(int(rng.choice(array)) for array in arrays)
    within = int(least + rng.uniform(-0.08, 1.05) * (most - least))
    budgets = [within, least, some, most, 2 * most + 1, least - 1]
    return max(0, budgets[int(rng.choice(len(budgets), p=[0.8, 0.04, 0.06, 0.04, 0.03, 0.03]))])


def equal_groups(rng: np.random.Generator, number: int) -> Problem:
    """Groups that share costs; some hold the same group many times."""
    pairs: list[tuple[ArrayLike, ArrayLike]] = []
    lattice = random_costs(rng)
    for _ in range(int(rng.integers(1, 4))):
        groups, candidates = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        costs = lattice(candidates)
        costs = np.sort(costs) if rng.random() < 0.7 else costs
        found = [more_values(rng, number, costs) for _ in range(groups)]
        values = np.array(found[:1] * groups if rng.random() < 0.4 else found)
        every = np.tile(costs, (groups, 1)) if rng.random() < 0.2 else costs
        pairs += rows_of(every, values)
    problem = Problem.from_groups(pairs, 0)
    return replace(problem, budget=random_budget(rng, [group.costs for group in problem.groups]))


def two_budgets(rng: np.random.Generator, number: int) -> Problem:
    """A limit on all groups or on some, like the costs, against them, or of its own."""
    problem = one_budget(rng, number)
    other = random_costs(rng)
    costs = {}
    relation = int(rng.integers(4))
    for group in problem.groups:
        if rng.random() < 0.85:
            against = group.costs.max() - group.costs
            own = other(len(group.costs))
            costs[group.name] = (own, own, group.costs, against)[relation]
    most = random_budget(rng, list(costs.values())) if costs else 0
    return replace(problem, limits=(Limit("second", most, costs),))


def rules(rng: np.random.Generator, number: int) -> Problem:
    """Implications and equal labels, with one budget or two."""
    problem = small_problems.random_problem(rng, limits=1, rules=3)
    if number % 4 or len(problem.groups) < 2:
        return problem
    return replace(problem, rules=(*problem.rules, _pairs(rng, problem)))


def several_limits(rng: np.random.Generator, number: int) -> Problem:
    """Two or three limits, with rules or without: the cases of the integer program."""
    while len((problem := small_problems.random_problem(rng, limits=3)).limits) < 2:
        pass
    loose = tuple(replace(limit, most=limit.most * 3 // 2) for limit in problem.limits)
    return replace(problem, limits=loose)


def uniform(rng: np.random.Generator, number: int) -> Problem:
    """Groups of one shape that all take one rank, beside groups that are free."""
    count, free = int(rng.integers(2, 6)), int(rng.integers(0, 3))
    lattice = random_costs(rng)
    size = int(rng.integers(1, 6))
    labels: tuple[Label, ...] = (*(8 * rank for rank in range(1, size)), "dense")
    costs = lattice(size)
    groups = []
    for index in range(count + free):
        own = costs if index < count else lattice(size)
        groups.append(Group(f"g{index}", own, more_values(rng, number, own), labels))
    tied = tuple(group.name for group in groups[:count])
    budget = random_budget(rng, [group.costs for group in groups])
    return Problem(tuple(groups), budget, (), (SameLabel(tied),))


def _pairs(rng: np.random.Generator, problem: Problem) -> Implies:
    """The first group may stay at its last candidate only if the second does so too."""
    first, second = problem.groups[:2]
    ends = [labels_of(group)[-1] for group in (first, second)]
    return Implies(first.name, (ends[0],), second.name, (ends[1],))


def curves(rng: np.random.Generator, number: int) -> Problem:
    """Curves like those of SVD pairs in units of 8192, with or without a dense candidate."""
    pairs = []
    for _ in range(int(rng.integers(20, 40))):
        step, ranks = int(rng.choice([5, 8, 18])), int(rng.integers(20, 70))
        rank = np.arange(1, ranks)
        tail = rng.lognormal() * (1 - (rank / (1.5 * ranks)) ** rng.uniform(0.1, 0.7))
        costs, values = 8192 * step * rank, -step * tail
        if number % 2:
            costs, values = np.append(costs, 8192 * step * ranks), np.append(values, 0.0)
        pairs.append((costs, values))
    total = sum(int(costs[-1]) for costs, _ in pairs)
    return Problem.from_groups(pairs, int(rng.uniform(0.3, 0.9) * total))


KINDS: dict[str, Callable[[np.random.Generator, int], Problem]] = {
    "one budget": one_budget,
    "equal groups": equal_groups,
    "two budgets": two_budgets,
    "uniform": uniform,
    "rules": rules,
    "several limits": several_limits,
    "curves": curves,
}
