"""The parts of the solver for two budgets: form form, prices, core, planes, dominance, search."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from gacfx.knapsack import Group, Problem
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.normal_form import NormalForm, normal_form
from gacfx.knapsack.two_budgets import core_search as two_core_search
from gacfx.knapsack.two_budgets import lagrangian_dual as two_dual
from gacfx.knapsack.two_budgets.core_problem import TwoCore, build_two
from gacfx.knapsack.two_budgets.core_search import TwoCoreSearch
from gacfx.knapsack.two_budgets.cutting_planes import CuttingPlanes, prices_around
from gacfx.knapsack.two_budgets.dynamic_program import Found, search_two
from gacfx.knapsack.two_budgets.lagrangian import Lagrangian, Peak, highest
from gacfx.knapsack.two_budgets.lagrangian_dual import Dual, solve_dual
from gacfx.knapsack.two_budgets.primal_heuristic import filled, first_plan
from gacfx.knapsack.two_budgets.states import undominated
from gacfx.knapsack.work import Work
from tests.unit.knapsack.two_budget_problems import limited_problem


def problem_of(seed: int, groups: int = 5, size: int = 4, high: int = 20) -> Problem:
    return limited_problem(seed, groups, size, high)


def plans(form: NormalForm) -> IntArray:
    """[all plans, groups] positions."""
    ranges = [range(int(a), int(b)) for a, b in itertools.pairwise(form.start)]
    return np.array(list(itertools.product(*ranges)))


def feasible(form: NormalForm) -> IntArray:
    every = plans(form)
    spent = form.cost[:, every].sum(axis=2)
    kept: IntArray = every[(spent[0] <= form.room[0]) & (spent[1] <= form.room[1])]
    return kept


def lagrangian_of(form: NormalForm) -> Lagrangian:
    short = form.spread(np.maximum.reduceat(form.value, form.start[:-1])) - form.value
    first, second = form.cost / 20
    return Lagrangian(form.start, short, first, second, (form.room[0] / 20, form.room[1] / 20))


@pytest.mark.parametrize("seed", range(30))
def test_peak_is_the_highest_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lagrangian = lagrangian_of(normal_form(problem_of(seed, groups=8)))
    peak = highest(lagrangian, 1e-14)
    if peak.ray:
        far = [p + 1e6 * r for p, r in zip(peak.price, peak.ray, strict=True)]
        assert lagrangian.look((far[0], far[1]))[0] > peak.height + 1
        return
    assert lagrangian.look(peak.price)[0] == pytest.approx(peak.height, abs=1e-12)
    for scale in (1e-6, 1e-3, 0.1, 1.0, 10.0):
        for step in rng.normal(size=(40, 2)) * scale:
            price = np.maximum(np.array(peak.price) + step, 0).tolist()
            assert lagrangian.look((price[0], price[1]))[0] <= peak.height + 1e-12


def test_a_guess_changes_the_way_but_not_the_peak() -> None:
    for seed in range(20):
        one, two = (lagrangian_of(normal_form(problem_of(seed, groups=40))) for _ in range(2))
        peak = highest(one, 1e-14)
        again = highest(two, 1e-14, (peak.price[0] * 1.01, peak.price[1] * 0.99))
        assert again.height == pytest.approx(peak.height, rel=1e-12)
        assert two.looks < one.looks


def test_no_mixture_keeps_both_rooms() -> None:
    start = np.array([0, 2])
    costs = np.array([0.0, 1.0])
    lagrangian = Lagrangian(start, np.zeros(2), costs, 1 - costs, (0.4, 0.4))
    assert highest(lagrangian, 1e-14).ray == pytest.approx((1.0, 1.0))


def long_curves(seed: int) -> NormalForm:
    """More candidates than the sample of the dual takes whole."""
    return normal_form(problem_of(seed, groups=12, size=100, high=1000))


@pytest.mark.parametrize("seed", range(8))
def test_a_sample_leads_to_the_same_prices(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    form = long_curves(seed)
    sizes = []

    def spy(lagrangian: Lagrangian, *options: Any) -> Peak:
        sizes.append(len(lagrangian.short))
        return highest(lagrangian, *options)

    monkeypatch.setattr(two_dual, "highest", spy)
    dual = solve_dual(form)
    assert max(sizes) < len(form.value) // 2, "the whole problem was not needed"
    monkeypatch.setattr(two_dual, "_SAMPLES", 1000)
    whole = solve_dual(form)
    bounds = [math.fsum(form.value[d.chosen]) + d.slack for d in (dual, whole)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-12)


def test_losses_and_slack_make_up_the_distance_of_every_plan() -> None:
    for seed in range(10):
        form = normal_form(problem_of(seed))
        dual = solve_dual(form)
        base = math.fsum(form.value[dual.chosen])
        for plan in plans(form)[::7]:
            left = form.left(plan)
            lost = float(dual.loss[plan].sum()) + dual.price[0] * left[0] + dual.price[1] * left[1]
            distance = base + dual.slack - float(form.value[plan].sum())
            assert distance == pytest.approx(lost, abs=1e-9)


def test_first_plan_keeps_both_rooms() -> None:
    for seed in range(20):
        form = normal_form(problem_of(seed, groups=40))
        dual = solve_dual(form)
        plan = first_plan(form, dual)
        assert plan is not None
        assert min(form.left(plan)) >= 0
        best = filled(form, dual, plan)
        assert form.value[best].sum() >= form.value[plan].sum()


def core_of(form: NormalForm, dual: Dual) -> TwoCore:
    return build_two(form, dual, math.inf)


def planes_of(form: NormalForm, dual: Dual, core: TwoCore) -> CuttingPlanes:
    price = (
        math.ldexp(dual.price[0], core.grid.exponent),
        math.ldexp(dual.price[1], core.grid.exponent),
    )
    return CuttingPlanes(core, form.left(dual.chosen), prices_around(core, price))


def test_core_is_in_the_order_of_search_and_counts_from_the_chosen_plan() -> None:
    problem = problem_of(3)
    limit = problem.limits[0]
    partial = Limit("other", limit.most, dict(list(limit.costs.items())[2:4]))
    form = normal_form(Problem(problem.groups, problem.budget, (partial,)))
    dual = solve_dual(form)
    core = core_of(form, dual)
    assert sorted(core.group[:2].tolist()) == [2, 3], "groups of both resources come first"
    for level in range(core.levels):
        part = slice(int(core.ends[level]), int(core.ends[level + 1]))
        assert (form.owner(core.position[part]) == core.group[level]).all()
        base = dual.chosen[core.group[level]]
        assert (
            core.cost[:, part] == (form.cost[:, core.position[part]].T - form.cost[:, base]).T
        ).all()
        gains = form.value[core.position[part]] - form.value[base]
        assert np.allclose(np.ldexp(core.gain[part], -core.grid.exponent), gains, atol=1e-12)
    assert core.savings[:, 0].tolist() == form.cost[:, dual.chosen].sum(axis=1).tolist()


def completions(core: TwoCore, depth: int) -> tuple[IntArray, FloatArray]:
    """Costs [2, plans] and gains [plans] of everything that the levels from ``depth`` on can do."""
    cost, gain = np.zeros((2, 1), np.int64), np.zeros(1)
    for level in range(depth, core.levels):
        part = slice(int(core.ends[level]), int(core.ends[level + 1]))
        cost = (cost[:, :, None] + core.cost[:, None, part]).reshape(2, -1)
        gain = (gain[:, None] + core.gain[part]).ravel()
    return cost, gain


@pytest.mark.parametrize("seed", range(6))
def test_no_bound_is_below_what_can_be_reached(seed: int) -> None:
    """Neither on the first planes nor on learned ones, and a cut tightens its own state."""
    rng = np.random.default_rng(seed)
    form = normal_form(problem_of(seed))
    dual = solve_dual(form)
    core = core_of(form, dual)
    planes = planes_of(form, dual, core)
    tightened = 0
    for depth in range(core.levels):
        cost, gain = completions(core, depth)
        left = np.stack([rng.integers(0, 30, 20) - core.savings[k, depth] // 2 for k in (0, 1)])
        fits = (cost[:, None] <= left[:, :, None]).all(axis=0)
        reached = np.where(fits, gain, -np.inf).max(axis=1)
        plane, bound = planes.bound(depth, left, np.zeros(20))
        assert (bound >= reached).all()
        assert (planes.bound_on(int(plane[3]), depth, left, np.zeros(20))[3] == bound[3]).all()
        if not planes.full:
            learned = planes.add_tightest(depth, (int(left[0, 3]), int(left[1, 3])), int(plane[3]))
            tighter = planes.bound_on(learned, depth, left, np.zeros(20))
            assert (tighter >= reached).all()
            assert tighter[3] <= bound[3] + 2.0**30
            tightened += int(tighter[3] < bound[3] - 2.0**36)
    assert tightened


def test_a_state_that_cannot_keep_both_rooms_learns_it() -> None:
    """Each room alone is enough for the open groups, but any plan spends 12 of both together."""
    costs = np.array([0, 3, 6])
    groups = tuple(Group(name, costs, np.array([0.0, 1.0, 5.0])) for name in "ab")
    limit = Limit("other", 9, dict.fromkeys("ab", 6 - costs))
    form = normal_form(Problem(groups, 9, (limit,)))
    dual = solve_dual(form)
    core = core_of(form, dual)
    planes = planes_of(form, dual, core)
    tight = np.array([5, 6]) - core.savings[:, 0]
    plane = planes.add_tightest(0, (int(tight[0]), int(tight[1])), 0)
    assert planes.bound_on(plane, 0, tight[:, None], np.zeros(1))[0] < -(2.0**50)


@pytest.mark.parametrize("seed", range(10))
def test_dominance_keeps_every_state_that_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.integers(-5, 9, (2, 300))
    gain = rng.integers(-20, 30, 300).astype(np.float64)
    keep = undominated(left, gain)
    assert len(set(keep.tolist())) == len(keep) < 300
    for state in set(range(300)) - set(keep.tolist()):
        as_good = (left[:, keep] >= left[:, [state]]).all(axis=0) & (gain[keep] >= gain[state])
        assert as_good.any(), "dropped, but nothing that was kept is as good"


def run_search(form: NormalForm, dual: Dual, beam: int, floor: float = -(2.0**55)) -> Found:
    core = core_of(form, dual)
    planes = planes_of(form, dual, core)
    work = Work(10**8, math.inf)
    left = form.left(dual.chosen)
    return search_two(core, planes, left, floor=floor, tolerance=0, beam=beam, work=work)


@pytest.mark.parametrize("seed", range(12))
def test_search_finds_the_best_and_its_bound_is_one(seed: int) -> None:
    form = normal_form(problem_of(seed, groups=6))
    dual = solve_dual(form)
    exponent = core_of(form, dual).grid.exponent
    values = form.value[feasible(form)].sum(axis=1)
    best = math.ldexp(float(values.max()) - float(form.value[dual.chosen].sum()), exponent)
    found = run_search(form, dual, 10**6)
    assert found.complete
    plan = dual.chosen.copy()
    plan[list(found.picks)] = list(found.picks.values())
    assert form.value[plan].sum() == pytest.approx(values.max(), abs=1e-12)
    assert found.bound == pytest.approx(best, abs=16)
    narrow = run_search(form, dual, 1)
    assert narrow.bound >= best - 16
    assert run_search(form, dual, 10**6, floor=best + 64).picks == {}


def test_search_that_runs_out_of_work_is_not_complete() -> None:
    form = normal_form(problem_of(1, groups=6))
    dual = solve_dual(form)
    core = core_of(form, dual)
    whole = run_search(form, dual, 10**6)
    work = Work(10**8, deadline=0.0)
    left, planes = form.left(dual.chosen), planes_of(form, dual, core)
    found = search_two(core, planes, left, floor=-(2.0**55), tolerance=0, beam=10**6, work=work)
    assert not found.complete
    assert found.bound >= whole.bound


def test_rounds_prove_what_they_find() -> None:
    for seed in range(12):
        form = normal_form(problem_of(seed, groups=6))
        dual = solve_dual(form)
        rounds = TwoCoreSearch(form, dual, 0.0, Work(10**8, math.inf), None)
        rounds.approach()
        rounds.improve()
        assert rounds.proven
        assert rounds.chosen is not None
        best = form.value[feasible(form)].sum(axis=1).max()
        assert form.value[rounds.chosen].sum() == pytest.approx(best, abs=1e-12)
        assert rounds.gain <= rounds.upper + rounds.rounding


def test_a_narrow_beam_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second best plan: the first beam drops states, the second finds the best one."""
    monkeypatch.setattr(two_core_search, "_BEAMS", (1, 2**18))
    for seed in range(12):
        form = normal_form(problem_of(seed, groups=6))
        every = feasible(form)
        values = form.value[every].sum(axis=1)
        order = np.argsort(values)
        work = Work(10**8, math.inf)
        rounds = TwoCoreSearch(form, solve_dual(form), 0.0, work, every[order[-2]])
        rounds.improve()
        assert rounds.proven
        assert rounds.chosen is not None
        assert form.value[rounds.chosen].sum() == pytest.approx(values.max(), abs=1e-12)


def test_rounds_prove_that_there_is_no_plan() -> None:
    """Half of each candidate would keep both rooms, so only the search can tell."""
    costs = {name: np.array([0, 10]) for name in "abc"} | {"fine": np.array([0, 1])}
    groups = tuple(Group(name, cost, np.array([0.0, 1.0])) for name, cost in costs.items())
    limit = Limit("other", 17, {name: cost[::-1] for name, cost in costs.items()})
    form = normal_form(Problem(groups, 15, (limit,)))
    dual = solve_dual(form)
    assert dual.open_rooms
    assert first_plan(form, dual) is None
    rounds = TwoCoreSearch(form, dual, 0.0, Work(10**8, math.inf), None)
    rounds.approach()
    assert rounds.proven
    assert rounds.chosen is None
