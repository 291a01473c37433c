"""The linear relaxation against its definition: the multiplier with the smallest bound."""

import numpy as np
import pytest

from gacfx.knapsack import Problem
from gacfx.knapsack.normal_form import NormalForm, normal_form
from gacfx.knapsack.one_budget import lp_relaxation
from gacfx.knapsack.one_budget.lp_relaxation import relax


def bound(form: NormalForm, multiplier: float) -> float:
    reduced = form.value - multiplier * form.cost[0]
    return multiplier * form.room[0] + float(np.maximum.reduceat(reduced, form.start[:-1]).sum())


def curves(seed: int, groups: int, candidates: int, dense: bool) -> NormalForm:
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
    return normal_form(Problem.from_groups(pairs, int(0.6 * total)))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("candidates", [6, 300])
def test_multiplier_gives_the_smallest_bound(candidates: int, dense: bool) -> None:
    form = curves(3, 30, candidates, dense)
    relaxed = relax(form)
    best = bound(form, relaxed.multiplier)
    others = relaxed.multiplier * np.geomspace(0.5, 2, 201)
    assert all(bound(form, other) >= best - 1e-12 for other in others)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("candidates", [6, 300])
def test_rounded_plan_is_best_for_its_multiplier(candidates: int, dense: bool) -> None:
    form = curves(4, 30, candidates, dense)
    relaxed = relax(form)
    assert relaxed.left == form.room[0] - form.cost[0, relaxed.chosen].sum() >= 0
    worth = float(form.value[relaxed.chosen].sum())
    lost = bound(form, relaxed.multiplier) - worth - relaxed.multiplier * relaxed.left
    assert lost == pytest.approx(0, abs=1e-12)


def test_a_loose_budget_has_no_price() -> None:
    relaxed = relax(normal_form(Problem.from_groups([([0, 3, 9], [0, 2, 2])], 5)))
    assert relaxed.multiplier == 0
    assert relaxed.chosen.tolist() == [1]


def test_ties_are_filled_widest_first() -> None:
    pairs = [([0, cost], [0, cost]) for cost in (3, 50, 40, 8)]
    assert relax(normal_form(Problem.from_groups(pairs, 61))).left == 0


def test_a_jump_that_does_not_fit_is_taken_away() -> None:
    # At the critical price the first group jumps from 1 to 8, for which the 5 left are too few.
    # Without that jump the second group uses all of them.
    jump = [(0, 0.0), (1, 10.0), (5, 10.5), (8, 50.0)]
    fine = [(0, 0.0), (1, 9.0), (2, 18.0), (3, 22.0), (4, 25.0), (5, 28.0), (6, 30.0), (7, 31.0)]
    pairs = [tuple(zip(*group, strict=True)) for group in (jump, fine)]
    form = normal_form(Problem.from_groups([(costs, values) for costs, values in pairs], 8))
    relaxed = relax(form)
    assert form.value[relaxed.chosen].sum() == 28
    assert form.value[relaxed.better].sum() == 10 + 31
    assert form.cost[0, relaxed.better].sum() == 8


def test_more_jumps_taken_away_never_make_the_plan_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    gained = 0
    for seed in range(40):
        form = curves(seed, 8, 60, dense=True)
        values = []
        for jumps in range(6):
            monkeypatch.setattr(lp_relaxation, "_JUMPS_OF_SMALL", jumps)
            better = relax(form).better
            assert form.cost[0, better].sum() <= form.room[0]
            values.append(float(form.value[better].sum()))
        assert values == sorted(values)
        gained += values[-1] > values[0]
    assert gained > 10


def test_what_is_worse_without_a_jump_is_not_taken() -> None:
    rng = np.random.default_rng(13282)  # rare: found by trying
    pairs = [
        (np.sort(rng.integers(0, 20, 5)), np.sort(rng.integers(0, 30, 5)).astype(np.float64))
        for _ in range(4)
    ]
    form = normal_form(Problem.from_groups(pairs, int(rng.integers(10, 60))))
    relaxed = relax(form)
    assert form.value[relaxed.better].sum() == form.value[relaxed.chosen].sum() == 80


@pytest.mark.parametrize("dense", [False, True])
def test_best_are_the_best_at_the_multiplier(dense: bool) -> None:
    form = curves(6, 30, 300, dense)
    relaxed = relax(form)
    reduced = form.value - relaxed.multiplier * form.cost[0]
    top = np.maximum.reduceat(reduced, form.start[:-1])
    np.testing.assert_allclose(reduced[relaxed.best], top, atol=1e-12)
