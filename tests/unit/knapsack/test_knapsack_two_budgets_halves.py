"""Joining lists of choices, and the best plan from two halves, against all plans."""

import itertools
import math

import numpy as np
import pytest

from gacfx.knapsack import Group, Problem
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.two_budgets import halves, lists
from gacfx.knapsack.two_budgets.dual import Dual, solve_dual
from gacfx.knapsack.two_budgets.flat import TwoFlat, flatten_two
from gacfx.knapsack.two_budgets.halves import Meeting, meet
from gacfx.knapsack.two_budgets.items import TwoCore, build_two
from gacfx.knapsack.two_budgets.lists import Cuts, Lists, halved
from gacfx.knapsack.work import Work
from tests.unit.knapsack.two_budget_problems import limited_problem

ENDLESS = Work(10**9, math.inf)


def flat_of(seed: int, groups: int = 7, size: int = 4, high: int = 12) -> TwoFlat:
    return flatten_two(limited_problem(seed, groups, size, high))


def best_plan(flat: TwoFlat, dual: Dual, core: TwoCore) -> tuple[float, IntArray] | None:
    """(gain in grid steps, positions) of the best plan of the core that keeps both rooms."""
    left = np.array(flat.left(dual.chosen))[:, None]
    ranges = itertools.starmap(range, itertools.pairwise(core.ends.tolist()))
    every = np.array(list(itertools.product(*ranges)), np.int64)
    fits = every[(core.cost[:, every].sum(axis=2) <= left).all(axis=0)]
    if not len(fits):
        return None
    gains = core.gain[fits].sum(axis=1)
    plan = dual.chosen.copy()
    plan[core.group] = core.position[fits[gains.argmax()]]
    return float(gains.max()), plan


def meeting(
    flat: TwoFlat,
    dual: Dual,
    whole: TwoCore,
    need: float,
    *,
    most: int = 10**6,
    work: Work = ENDLESS,
) -> tuple[TwoCore, Meeting]:
    """The core that reaches to ``need``, a gain in steps of ``whole``, and what is found there."""
    distance = dual.slack - math.ldexp(need, -whole.grid.exponent)
    core = build_two(flat, dual, distance)
    found = meet(
        core,
        np.arange(core.levels),
        core.priced(dual.price),
        flat.left(dual.chosen),
        need=core.grid.floor(dual.slack - distance),
        limit=core.grid.floor(distance) + 2**10,
        most=most,
        work=work,
    )
    return core, found


def value_of(flat: TwoFlat, dual: Dual, core: TwoCore, found: Meeting) -> float:
    """The value of the plan that was found; its gain must be the same."""
    assert found.picks is not None
    plan = dual.chosen.copy()
    plan[list(found.picks)] = list(found.picks.values())
    assert min(flat.left(plan)) >= 0
    gain = float(flat.value[plan].sum() - flat.value[dual.chosen].sum())
    assert math.ldexp(found.gain, -core.grid.exponent) == pytest.approx(gain, abs=1e-12)
    return float(flat.value[plan].sum())


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 7])
def test_meets_in_the_best_plan(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_WORTH_CUTTING", 0)
    searched = 0
    for seed in range(60):
        flat = flat_of(seed, groups)
        if flat.closed:
            continue
        dual = solve_dual(flat)
        whole = build_two(flat, dual, math.inf)
        known = best_plan(flat, dual, whole)
        if known is None:
            assert meeting(flat, dual, whole, -(2.0**47))[1].picks is None
            continue
        best, plan = known
        for need in (best - 2**4, best - 2.0**40, best - 2.0**47):
            core, found = meeting(flat, dual, whole, need)
            assert found.complete
            value = value_of(flat, dual, core, found)
            assert value == pytest.approx(flat.value[plan].sum(), abs=1e-12)
        searched += 1
    assert searched >= 20


def test_offers_a_good_plan_beyond_the_limit() -> None:
    """Too near to the bound for the best plan, but near enough to see some plan beside it."""
    beside = 0
    for seed in range(40):
        flat = flat_of(seed)
        dual = solve_dual(flat)
        whole = build_two(flat, dual, math.inf)
        known = best_plan(flat, dual, whole)
        assert known is not None
        best = known[0]
        slack = whole.grid.floor(dual.slack)
        core, found = meeting(flat, dual, whole, slack - (slack - best) / 1.3)
        assert found.complete
        if found.picks is not None:
            beside += 1
            assert math.ldexp(found.gain, whole.grid.exponent - core.grid.exponent) <= best + 16
            value_of(flat, dual, core, found)
    assert beside > 5


@pytest.mark.parametrize("most", [1, 30])
def test_too_much_to_look_at_proves_nothing(most: int) -> None:
    flat = flat_of(0)
    dual = solve_dual(flat)
    whole = build_two(flat, dual, math.inf)
    assert not meeting(flat, dual, whole, -(2.0**45), most=most)[1].complete
    assert not meeting(flat, dual, whole, -(2.0**45), work=Work(0, math.inf))[1].complete


def test_a_core_without_groups_is_the_chosen_plan() -> None:
    groups = (Group("a", np.array([1, 2]), np.array([0.0, 1.0])),)
    flat = flatten_two(Problem(groups, 2, (Limit("other", 9, {}),)))
    core = build_two(flat, solve_dual(flat), 0.0)
    assert core.levels == 0
    for need, picks in ((0.0, {}), (1.0, None)):
        found = meet(
            core, np.arange(0), (0.0, 0.0), (0, 0), need=need, limit=0.0, most=9, work=ENDLESS
        )
        assert found.picks == picks
    over = meet(core, np.arange(0), (0.0, 0.0), (0, -1), need=0.0, limit=0.0, most=9, work=ENDLESS)
    assert over.picks is None


def test_too_many_pairs_of_halves_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "_PAIRS", 0.001)
    flat = flat_of(1, groups=3)
    dual = solve_dual(flat)
    _, found = meeting(flat, dual, build_two(flat, dual, math.inf), -(2.0**45), most=100)
    assert not found.complete
    assert found.picks is None


def random_lists(rng: np.random.Generator, count: int, limit: float) -> Lists:
    sizes = rng.integers(1, 6, count)
    ends = np.append(0, np.cumsum(sizes))
    total = int(ends[-1])
    loss = np.concatenate([np.sort(rng.random(size)) * limit for size in sizes])
    loss[ends[:-1]] = 0.0
    cost, gain = rng.integers(-3, 4, (2, total)), rng.integers(-9, 9, total).astype(float)
    return Lists(ends, cost, gain, loss, np.zeros((1, count)))


NO_CUTS = Cuts(np.zeros((1, 2)), np.full(1, np.inf))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8, 13])
def test_joined_lists_hold_every_sum_that_matters(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(10):
        before = random_lists(rng, count, limit=1.0)
        step = halved(before, 1.0, NO_CUTS, 10**6)
        assert step is not None
        after, joined, looked_at = step
        assert after.count == 2 ** math.ceil(math.log2(count) - 1)
        assert looked_at >= len(after.gain)
        assert_sums(before, after, joined.first, joined.second)
        used = set(joined.first.tolist()) | set(joined.second.tolist())
        owners = {int(np.searchsorted(before.ends, entry, "right")) - 1 for entry in used - {-1}}
        assert owners == set(range(count))


def assert_sums(
    before: Lists,
    after: Lists,
    first: IntArray,
    second: IntArray,
) -> None:
    """Entries are what their sources add up to; every near pair has an entry as good."""
    has = second >= 0
    for name in ("cost", "gain", "loss"):
        numbers: FloatArray = getattr(before, name)
        total = numbers[..., first] + np.where(has, numbers[..., second], 0)
        assert np.array_equal(getattr(after, name), total)
    for begin, end in itertools.pairwise(after.ends.tolist()):
        assert (np.diff(after.loss[begin:end]) >= 0).all()
        mine = {}
        for index in range(begin, end):
            key = tuple(after.cost[:, index].tolist())
            assert key not in mine, "only the best of equal costs stays"
            mine[key] = after.gain[index]
        lists_of = np.unique(np.searchsorted(before.ends, first[begin:end], "right") - 1)
        assert len(lists_of) == 1
        one = range(int(before.ends[lists_of[0]]), int(before.ends[lists_of[0] + 1]))
        other: list[int] = [-1]
        if has[begin:end].any():
            partner = int(np.searchsorted(before.ends, second[begin], "right")) - 1
            other = list(range(int(before.ends[partner]), int(before.ends[partner + 1])))
        for a, b in itertools.product(one, other):
            loss = before.loss[a] + (before.loss[b] if b >= 0 else 0.0)
            if loss <= 1.0:
                cost = before.cost[:, a] + (before.cost[:, b] if b >= 0 else 0)
                gain = before.gain[a] + (before.gain[b] if b >= 0 else 0.0)
                assert mine[tuple(cost.tolist())] >= gain


def test_cuts_take_only_what_they_prove_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_WORTH_CUTTING", 0)
    monkeypatch.setattr(lists, "_SAMPLE", 4)
    rng = np.random.default_rng(3)
    taken = 0
    for _ in range(40):
        before = random_lists(rng, 2, limit=1.0)
        price = np.array([[0.0, 0.0], [1.5, 0.5], [0.0, 3.0]])
        worth = before.gain - price @ before.cost
        top = np.maximum.reduceat(worth, before.ends[:-1], axis=1)
        before = Lists(before.ends, before.cost, before.gain, before.loss, top)
        spare = np.array([12.0, 9.0, 9.0])
        step, whole = halved(before, 1.0, Cuts(price, spare), 99), halved(before, 1.0, NO_CUTS, 99)
        assert step is not None
        assert whole is not None
        lost = top.sum(axis=1)[:, None] - (whole[0].gain - price @ whole[0].cost)
        hopeful = (lost <= spare[:, None]).all(axis=0)
        kept = {tuple(column) for column in step[0].cost.T.tolist()}
        assert kept >= {tuple(column) for column in whole[0].cost.T[hopeful].tolist()}
        taken += len(whole[0].gain) - len(kept)
    assert taken > 20
