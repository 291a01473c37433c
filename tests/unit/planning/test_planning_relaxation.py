"""The linear relaxation against its definition: the multiplier with the smallest bound."""

import numpy as np
import pytest

from gacfx.planning import Problem
from gacfx.planning.lattice import Flat, flatten
from gacfx.planning.relaxation import relax


def bound(flat: Flat, multiplier: float) -> float:
    reduced = flat.value - multiplier * flat.weight
    return multiplier * flat.room + float(np.maximum.reduceat(reduced, flat.start[:-1]).sum())


def curves(seed: int, groups: int, candidates: int, dense: bool) -> Flat:
    """Concave curves, with the jump to a dense weight or without."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(groups):
        step = int(rng.choice([5, 8, 18]))
        costs = step * np.arange(1, candidates + 1)
        values = -rng.lognormal() * (1 - (np.arange(1, candidates + 1) / candidates) ** 0.5)
        if dense:
            costs = np.append(costs, costs[-1] + step)
            values = np.append(values - 0.2, 0.0)
        pairs.append((costs, values))
    total = sum(int(costs[-1]) for costs, _ in pairs)
    return flatten(Problem.from_groups(pairs, int(0.6 * total)))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("candidates", [6, 300])
def test_multiplier_gives_the_smallest_bound(candidates: int, dense: bool) -> None:
    flat = curves(3, 30, candidates, dense)
    relaxed = relax(flat)
    best = bound(flat, relaxed.multiplier)
    others = relaxed.multiplier * np.geomspace(0.5, 2, 201)
    assert all(bound(flat, other) >= best - 1e-12 for other in others)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("candidates", [6, 300])
def test_rounded_plan_is_best_for_its_multiplier(candidates: int, dense: bool) -> None:
    flat = curves(4, 30, candidates, dense)
    relaxed = relax(flat)
    assert relaxed.left == flat.room - flat.cost[relaxed.chosen].sum() >= 0
    worth = float(flat.value[relaxed.chosen].sum())
    lost = bound(flat, relaxed.multiplier) - worth - relaxed.multiplier * relaxed.left
    assert lost == pytest.approx(0, abs=1e-12)


def test_a_loose_budget_has_no_price() -> None:
    relaxed = relax(flatten(Problem.from_groups([([0, 3, 9], [0, 2, 2])], 5)))
    assert relaxed.multiplier == 0
    assert relaxed.chosen.tolist() == [1]


def test_ties_are_filled_widest_first() -> None:
    pairs = [([0, cost], [0, cost]) for cost in (3, 50, 40, 8)]
    assert relax(flatten(Problem.from_groups(pairs, 61))).left == 0
