"""plan_pools: both budgets are kept, and no plan that keeps them loses less."""

import random
from fractions import Fraction
from itertools import product
from typing import Any

import pytest

from gacfx.core.curves import ListedCurve
from gacfx.core.decision import DENSE, Decision, LowRank
from gacfx.core.plan import Plan
from gacfx.core.provenance import Provenance
from gacfx.core.routed import Routed
from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import kept_budget
from gacfx.routing.bases import pool_of
from gacfx.routing.planning import (
    ACTIVE,
    active_share,
    plan_pools,
    stored_share,
    with_own_ranks,
)
from gacfx.routing.study import is_static

PROVENANCE = Provenance("gfwsvd", "pools:2", "", 4, "fp32")
SHAPES = {"layers.0.up": (24, 16), "layers.0.down": (16, 24), "layers.1.q": (16, 16)}


def curves_of(seed: int, kinds: int = 2) -> dict[str, ListedCurve]:
    """Losses that fall with the rank, and are less with own ranks."""
    draw, found = random.Random(seed), {}
    for name, (rows, columns) in SHAPES.items():
        losses: dict[Decision, float] = {}
        scale = draw.uniform(0.5, 2)
        for active in (4, 8):
            losses[LowRank(active)] = scale * draw.uniform(0.5, 1) / active
            for shared in (0, 4):
                if shared < active:
                    loss = losses[LowRank(active)] * draw.uniform(0.3, 0.99)
                    losses[pool_of(active, shared, 4, kinds)] = loss
        found[name] = ListedCurve(name, rows, columns, losses)
    return found


def best_of(
    curves: dict[str, ListedCurve], running: int, stored: float, allowed: Any = lambda _: True
) -> float | None:
    """By trying all plans."""
    found = []
    sides = [[*(c for c in each.losses if allowed(c)), DENSE] for each in curves.values()]
    for chosen in product(*sides):
        pairs = [*zip(chosen, curves.values(), strict=True)]
        runs = sum(each.active_params(curve.rows, curve.columns) for each, curve in pairs)
        keeps = sum(each.params(curve.rows, curve.columns) for each, curve in pairs)
        if runs <= running and keeps <= stored:
            found.append(sum(curve.loss(each) for each, curve in pairs))
    return min(found, default=None)


def made(curves: dict[str, ListedCurve], **more: Any) -> Plan:
    return plan_pools(curves, model_params=10_000, provenance=PROVENANCE, **more)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("removed", ["0.2", "0.45"])
@pytest.mark.parametrize("stored", ["0.6", "0.9", "1.25", None])
@pytest.mark.parametrize("static", [False, True])
def test_no_plan_under_both_budgets_loses_less(
    seed: int, removed: str, stored: str | None, static: bool
) -> None:
    curves = curves_of(seed)
    total = sum(rows * columns for rows, columns in SHAPES.values())
    allowed = is_static if static else lambda _: True
    most = float("inf") if stored is None else int(Fraction(stored) * total)
    want = best_of(curves, kept_budget(total, removed), most, allowed)
    more = {"offered": is_static} if static else {}
    if want is None:
        with pytest.raises(InfeasibleBudget):
            made(curves, removed=removed, stored=stored, **more)
        return
    plan = made(curves, removed=removed, stored=stored, **more)
    assert plan.kept_params <= most
    assert active_share(plan) <= 1 - float(removed) + 1e-12
    assert sum(choice.loss_nats for choice in plan.choices) == pytest.approx(want, rel=1e-9)
    assert plan.proof is not None and plan.proof.status == "optimal"
    assert not static or not any(isinstance(d, Routed) for d in plan.decisions.values())
    for choice in plan.choices:
        assert choice.loss_nats == curves[choice.group].loss(choice.decision)
        assert choice.wanted is None
    assert Plan.from_json(plan.to_json()) == plan
    limit = plan.limits[0]
    assert (limit.name, limit.dense, limit.unit) == (ACTIVE, total, "parameters")
    assert limit.spent == active_share(plan) * total <= limit.most == kept_budget(total, removed)


def test_pools_cost_what_they_store_and_run_like_pairs() -> None:
    curve = ListedCurve("a", 24, 16, {})
    shape = curve.rows, curve.columns
    assert pool_of(8, 4, 4, 3).active_params(*shape) == LowRank(8).active_params(*shape) == 320
    assert DENSE.active_params(*shape) == 24 * 16
    assert pool_of(8, 4, 4, 3).params(24, 16) == 20 * 40


def test_what_runs_is_counted_apart_from_what_is_stored() -> None:
    plan = made(curves_of(0), removed="0.45")
    total = sum(rows * columns for rows, columns in SHAPES.values())
    runs = 0
    for choice in plan.choices:
        rows, columns = SHAPES[choice.group]
        rank = choice.decision.rank
        runs += rows * columns if rank is None else rank * (rows + columns)
    assert active_share(plan) == runs / total
    assert plan.kept_params >= runs
    assert any(isinstance(each, Routed) for each in plan.decisions.values())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_pairs_become_pools_that_run_as_much(share: float) -> None:
    static = made(curves_of(2), removed="0.45", offered=is_static)
    plan = with_own_ranks(static, share, 4, 3)
    assert active_share(plan) == active_share(static)
    assert plan.weights == static.weights and plan.proof is None
    for choice, before in zip(plan.choices, static.choices, strict=True):
        if (rank := before.decision.rank) is None:
            assert choice.decision.is_dense
            continue
        shared = int(rank * share) // 4 * 4
        assert choice.decision == Routed(rank + 3 * (rank - shared), rank, shared, 4)
    assert stored_share(plan) == plan.kept_params / plan.budget.targeted_params


def test_a_weight_that_failed_stays_dense_with_the_reason() -> None:
    curves = curves_of(1)
    name = "layers.0.down"
    curves[name] = ListedCurve(name, *SHAPES[name], {}, "it runs without gradient")
    plan = made(curves, removed="0.2", stored="1.5")
    choice = next(each for each in plan.choices if each.group == name)
    assert choice.decision.is_dense and choice.reason == "it runs without gradient"
    assert choice.loss_nats == 0 and name not in plan.decisions


@pytest.mark.parametrize("stored", ["0", "-1", "1000", "x", "", "nan", "inf", "1/0"])
def test_shares_that_are_none_are_refused(stored: str) -> None:
    with pytest.raises(PlanError, match=f"^stored '{stored}': .* such as 1.25$"):
        made(curves_of(0), removed="0.2", stored=stored)


@pytest.mark.parametrize("removed", ["1", "-0.1", "x", 1.5])
def test_removed_shares_that_are_none_are_refused(removed: str | float) -> None:
    with pytest.raises(PlanError, match=f"ratio .*{removed}"):
        made(curves_of(0), removed=removed)


@pytest.mark.parametrize("more", [{"removed": "0.95"}, {"removed": "0.1", "stored": "0.05"}])
def test_budgets_that_no_plan_keeps_are_refused(more: dict[str, str]) -> None:
    with pytest.raises(InfeasibleBudget):
        made(curves_of(0), **more)
