"""Parts of a problem of two budgets: their bounds, their splits, and what is proven in the end."""

import itertools
import math

import numpy as np
import pytest

from gacfx.knapsack import Group, Problem
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.two_budgets import branch as two_branch
from gacfx.knapsack.two_budgets import branches as two_branches
from gacfx.knapsack.two_budgets.branch import Branch
from gacfx.knapsack.two_budgets.branches import Branches
from gacfx.knapsack.two_budgets.dual import solve_dual
from gacfx.knapsack.two_budgets.flat import TwoFlat, flatten_two
from gacfx.knapsack.two_budgets.progress import Progress
from gacfx.knapsack.work import Work

ENDLESS = Work(10**9, math.inf)


def flat_of(seed: int, *, groups: int = 6, dense: bool = True) -> TwoFlat:
    """Few ranks each; ``dense``: and a weight that costs much more and is worth much more."""
    rng = np.random.default_rng(seed)
    made, limits = [], {}
    for number in range(groups):
        costs = np.append(np.sort(rng.integers(0, 12, 4)), 60 if dense else 13)
        values = np.append(np.sort(rng.random(4)), rng.uniform(1, 6 if dense else 1.2))
        made.append(Group(f"g{number}", costs, values))
        limits[f"g{number}"] = rng.integers(0, 9, 5) + (costs > 50) * 20
    problem = Problem(tuple(made), 20 * groups + 7, (Limit("other", 11 * groups, limits),))
    return flatten_two(problem)


def feasible(flat: TwoFlat) -> IntArray:
    """[plans, groups] positions of all plans that keep both rooms."""
    ranges = [range(int(a), int(b)) for a, b in itertools.pairwise(flat.start)]
    every = np.array(list(itertools.product(*ranges)))
    spent = flat.cost[:, every].sum(axis=2)
    kept: IntArray = every[(spent <= np.array(flat.room)[:, None]).all(axis=0)]
    return kept


def root_of(flat: TwoFlat) -> Branch:
    return Branch(flat, solve_dual(flat), np.arange(len(flat.value)), 0.0, math.inf)


@pytest.mark.parametrize("seed", range(12))
def test_a_part_is_searched_down_to_its_best_plan(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_branch, "_FIRST_CORE", 1)
    flat = flat_of(seed)
    part = root_of(flat)
    base = flat.value[part.dual.chosen].sum()
    best = float((flat.value[feasible(flat)].sum(axis=1) - base).max())
    found, gain = None, -math.inf
    for _ in range(60):
        assert part.upper >= best - 1e-9
        found = part.deepen(gain, np.arange(flat.groups), 10**6, ENDLESS)
        if found is not None:
            assert min(flat.left(found)) >= 0
            gain = max(gain, float(flat.value[found].sum() - base))
        if part.upper <= gain:
            break
    assert part.upper <= gain
    assert gain == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_split_loses_no_better_plan(seed: int) -> None:
    flat = flat_of(seed)
    root = root_of(flat)
    every = feasible(flat)
    gains = flat.value[every].sum(axis=1) - flat.value[root.dual.chosen].sum()
    known = float(np.quantile(gains, 0.5))
    parts = root.split(known)
    assert parts is not None
    for plan, gain in zip(every[gains > known + 1e-9], gains[gains > known + 1e-9], strict=True):
        homes = [part for part in parts if np.isin(plan, part.position).all()]
        assert len(homes) == 1
        assert homes[0].upper >= gain - 1e-9
    assert sum(len(part.position) for part in parts) <= 2 * len(flat.value) - 2


def test_a_split_lowers_the_bound_where_a_weight_is_half_dense() -> None:
    lowered = 0
    for seed in range(20):
        root = root_of(flat_of(seed))
        parts = root.split(-math.inf) or []
        assert all(part.upper <= root.upper + 1e-12 for part in parts)
        lowered += bool(parts) and all(part.upper < root.upper - 0.01 for part in parts)
    assert lowered >= 10


def test_without_a_mixture_there_is_no_split() -> None:
    """One of two equal candidates stands for both, and nothing is gained by parting them."""
    groups = tuple(Group(f"g{i}", np.array([1, 1]), np.ones(2)) for i in range(3))
    root = root_of(flatten_two(Problem(groups, 3, (Limit("other", 3, {}),))))
    assert root.split(-math.inf) is None


def run(flat: TwoFlat, work: Work, *, tolerance: float = 0.0) -> tuple[Progress, float]:
    """What the branches end with, and the best gain of all plans."""
    dual = solve_dual(flat)
    progress = Progress(flat, dual, tolerance, work, None)
    Branches(progress).run()
    gains = flat.value[feasible(flat)].sum(axis=1) - flat.value[dual.chosen].sum()
    return progress, float(gains.max())


@pytest.mark.parametrize("dense", [True, False])
def test_branches_prove_the_best_plan(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_branches, "_MUCH", 0)
    monkeypatch.setattr(two_branch, "_FIRST_CORE", 1)
    monkeypatch.setattr(two_branches, "_EFFORT", 10**7)
    parts = 0
    for seed in range(12):
        progress, best = run(flat_of(seed, dense=dense), ENDLESS)
        assert progress.proven
        assert progress.gain == pytest.approx(best, abs=1e-9)
        assert progress.upper == progress.gain
        parts = max(parts, progress.branches)
    assert parts > 2 or not dense


def test_branches_that_give_up_leave_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_branches, "_MUCH", 0)
    monkeypatch.setattr(two_branch, "_FIRST_CORE", 1)
    monkeypatch.setattr(two_branches, "_EFFORT_OF_CANDIDATE", 0.0)
    proven = 0
    for effort in (1, 5_000, 15_000):
        monkeypatch.setattr(two_branches, "_EFFORT", effort)
        for seed in range(12):
            progress, best = run(flat_of(seed), ENDLESS)
            assert progress.upper >= best - 1e-9
            assert progress.gain <= best + 1e-9
            proven += progress.proven
    assert 0 < proven < 36


def test_branches_without_time_prove_nothing() -> None:
    progress, best = run(flat_of(0), Work(10**9, 0.0))
    assert not progress.proven
    assert progress.upper == progress.dual.slack >= best


def test_branches_stop_within_the_tolerance() -> None:
    for seed in range(12):
        progress, best = run(flat_of(seed), Work(10**9, math.inf), tolerance=0.3)
        assert not progress.proven
        assert best - 1e-9 <= progress.upper <= progress.gain + 0.3 + 1e-9


def test_no_plan_at_all_is_proven_or_left_open() -> None:
    """Half of each candidate would keep both rooms, but no whole one does."""
    costs = {name: np.array([0, 10]) for name in "abc"} | {"fine": np.array([0, 1])}
    groups = tuple(Group(name, cost, np.array([0.0, 1.0])) for name, cost in costs.items())
    limit = Limit("other", 17, {name: cost[::-1] for name, cost in costs.items()})
    flat = flatten_two(Problem(groups, 15, (limit,)))
    progress = Progress(flat, solve_dual(flat), 0.0, Work(10**9, math.inf), None)
    Branches(progress).run()
    assert progress.chosen is None
