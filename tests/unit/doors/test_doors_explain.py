"""Explanations of two hand-made weights, with numbers worked out on paper.

Sizes cost 16, 32, 48 and 64 (dense) parameters. Losses of a: 0.5, 0.25, 0.125, 0; of b: 0.1, 0.05,
0.02, 0. The price is set to 1/128 nats per parameter, so a rank more has to save 0.125.
"""

import math
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gacfx.allocation.allocate import allocate
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.search import Search
from gacfx.errors import PlanError, PlanMismatch
from gacfx.explain import Explanation, Other, explain
from gacfx.hardware.profile import load_profile
from gacfx.replan import plan_from_curves
from gacfx.report.explain_view import explain_view
from tests.unit import made_curves

A, B = made_curves.LOSSES


def plan(ratio: str = "0.5", price: float = 1 / 128, **search: Any) -> Plan:
    made = plan_from_curves(
        made_curves.curves(), ratio=ratio, search=Search(**{"align": 1, "form": "pair", **search})
    )
    assert made.proof is not None
    return replace(made, proof=replace(made.proof, multiplier=price))


def seen(module: str, ratio: str = "0.5", price: float = 1 / 128, **search: Any) -> Explanation:
    return explain(plan(ratio, price, **search), made_curves.curves(), module)


def gains(found: Explanation) -> dict[str, float | None]:
    return {hold.by: hold.gain_nats for hold in found.held_by}


def text(found: Explanation) -> str:
    out = StringIO()
    Console(width=200, file=out, highlight=False, markup=False).print(explain_view(found))
    return out.getvalue()


def test_a_rank_has_neighbours_with_their_price() -> None:
    found = seen(A)
    assert (found.decision.rank, found.loss_nats, found.params, found.price) == (
        3,
        0.125,
        48,
        7812.5,
    )
    assert found.smaller == Other(LowRank(2), 0.125, -16, 0.0)
    assert found.larger == Other(DENSE, -0.125, 16, 0.0)
    assert found.smaller.nats_per_million_params == 7812.5
    assert (found.nearest, found.pays_at) == (None, None)


def test_a_size_that_is_not_worth_its_price_says_what_it_would_cost() -> None:
    found = seen(B)
    assert (found.decision.rank, found.smaller) == (1, None)
    assert found.larger is not None and found.larger.decision.rank == 2
    assert found.larger.loss_change_nats == pytest.approx(-0.05)
    assert found.larger.reduced_cost_nats == pytest.approx(0.125 - 0.05)
    assert found.larger.nats_per_million_params == pytest.approx(3125)


def test_budget_and_break_even_hold_the_larger_weight() -> None:
    found = seen(A)
    assert gains(found) == {"budget": 0.125, "break-even": None}
    budget, even = found.held_by
    assert budget.why == "the next size that loses less needs 16 parameters, 0 are left"
    assert even.why == "no larger rank in this form saves parameters"


def test_a_dense_weight_says_how_far_a_rank_is_from_paying() -> None:
    # Budget 115: a dense and b of rank 3, 112 together.
    found = seen(A, "0.1", price=0.001)
    assert (found.decision.rank, found.params, found.larger) == (None, 64, None)
    assert found.nearest == found.smaller == Other(LowRank(3), 0.125, -16, 0.125 - 0.016)
    # Loss per saved parameter: 0.5 / 48, 0.25 / 32, 0.125 / 16.
    assert found.pays_at == 7812.5
    assert found.held_by == ()
    assert "rank 3 comes closest to paying: 1.1e-01 nats short; a rank pays from" in text(found)
    assert "7.81e+03 per million parameters, 7.81 times today's" in text(found)
    assert "held by nothing: no other size loses less" in text(found)


def test_the_nearest_rank_need_not_be_the_next_one() -> None:
    losses = dict(made_curves.curves().losses)
    losses[A] = losses[A].copy()
    losses[A][:4] = 0.5, 0.13, 0.128, 0.126
    curves = replace(made_curves.curves(), losses=losses)
    made = plan_from_curves(curves, ratio="0.1", search=Search(align=1, form="pair"))
    assert made.proof is not None
    made = replace(made, proof=replace(made.proof, multiplier=0.002))
    found = explain(made, curves, A)
    assert found.nearest is not None and found.smaller is not None
    assert (found.nearest.decision.rank, found.smaller.decision.rank) == (1, 3)
    assert found.nearest.reduced_cost_nats == pytest.approx(0.13 - 0.096)
    assert found.pays_at == pytest.approx(1e6 * 0.13 / 48)
    assert "rank 1 comes closest to paying: 3.4e-02 nats short" in text(found)


def test_a_contract_holds_when_a_rank_between_would_be_better() -> None:
    # In steps of 2 both get rank 2; b would take 1: -0.05 + 0.125 better.
    found = seen(B, align=2)
    assert found.decision.rank == 2
    assert gains(found)["contract"] == pytest.approx(0.075)
    assert next(h for h in found.held_by if h.by == "contract").why == "ranks come in steps of 2"
    assert "contract" not in gains(seen(A, align=2))
    assert "contract" not in gains(seen(B))


def test_tensor_parallelism_is_part_of_the_contract_once() -> None:
    found = seen(B, tp=2)
    assert (found.decision.rank, found.larger and found.larger.decision.rank) == (2, None)
    assert next(h for h in found.held_by if h.by == "contract").why == "ranks come in steps of 2"


def test_a_bound_holds_what_it_holds() -> None:
    found = seen(A, bounds=((A, 1, 1),))
    assert (found.decision.rank, found.larger, found.smaller) == (1, None, None)
    # Rank 1 is worth -0.5 - 0.125, ranks 2 and 3 are worth -0.5.
    assert gains(found) == {"bound": pytest.approx(0.125)}
    assert found.held_by[0].why == f"{A}=1:1"


def test_a_window_holds_what_lies_outside() -> None:
    # d* is 2: ranks 2 and 3 are offered; b gets 2 and would take 1.
    found = seen(B, candidates="window", window=2)
    assert found.decision.rank == 2 and gains(found)["window"] == pytest.approx(0.075)


def test_a_bound_that_leaves_nothing_else_keeps_its_reason() -> None:
    found = seen(A, "0.1", bounds=((A, 4, None),))
    assert [hold.by for hold in found.held_by] == ["bound"]
    assert found.held_by[0].why.startswith("no rank from 1 to 3 in steps of 1 is in")
    assert (found.nearest, found.pays_at) == (None, None)


def test_a_weight_without_a_curve_says_why() -> None:
    base = made_curves.curves()
    first = replace(base.facts.weights[0], failed="the weight is 0")
    facts = replace(base.facts, weights=(first, base.facts.weights[1]))
    curves = replace(base, facts=facts, losses={B: base.losses[B]})
    made = plan_from_curves(curves, ratio="0.2", search=Search(align=1, form="pair"))
    found = explain(made, curves, A)
    assert [(hold.by, hold.why) for hold in found.held_by] == [("failure", "the weight is 0")]
    assert "held by failure: the weight is 0" in text(found)


def test_a_size_that_fits_and_was_not_found_is_said() -> None:
    # A rule of thumb may leave parameters unused: b of rank 2 needs 16, and the budget is 115.
    made = plan("0.1", solver="round")
    first, second = made.choices
    choices = (
        replace(first, decision=LowRank(1), loss_nats=0.5),
        replace(second, decision=LowRank(1), loss_nats=0.1),
    )
    for limit, held_by in ((48, "solver"), (47, "budget")):
        budget = replace(made.budget, limit_params=limit)
        found = explain(replace(made, choices=choices, budget=budget), made_curves.curves(), B)
        assert found.held_by[0].by == held_by
    assert "needs 16 parameters, 15 are left" in found.held_by[0].why


# -- what is refused -----------------------------------------------------------------------------


def test_a_module_that_is_not_planned_is_named_with_its_reason_or_neighbours() -> None:
    with pytest.raises(PlanError, match="lm_head: was left out before planning: outside the"):
        seen("lm_head")
    with pytest.raises(PlanError, match="no such module; it has layers.0.a,"):
        seen("a")
    with pytest.raises(PlanError, match="no such module; it has layers.0.[ab]"):
        seen("layers.0.c")
    with pytest.raises(PlanError, match="no such module; it has layers.0.a, layers.0.b"):
        seen("?")


def test_ranks_by_formula_have_no_price() -> None:
    with pytest.raises(PlanError, match="was not solved"):
        explain(replace(plan(), proof=None), made_curves.curves(), A)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 64}, "are of different models"),
        ({"digests": {A: "0" * 64}}, "are of different models"),
        ({"provenance": replace(made_curves.facts().provenance, value_model="x")}, "other losses"),
    ],
)
def test_curves_of_another_model_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanMismatch, match=message):
        explain(plan(), made_curves.curves(**changes), A)


def test_curves_of_another_calibration_are_refused() -> None:
    base = made_curves.curves()
    losses = {**base.losses, A: base.losses[A] * (1 + math.ulp(1.0))}
    with pytest.raises(PlanMismatch, match="made of other losses"):
        explain(plan(), replace(base, losses=losses), A)


def test_a_weight_of_another_shape_is_refused() -> None:
    made = plan()
    weights = (replace(made.choices[0].weights[0], rows=9),)
    choices = (replace(made.choices[0], weights=weights), made.choices[1])
    with pytest.raises(PlanMismatch, match="9 x 8 in the plan, 8 x 8 in the curves"):
        explain(replace(made, choices=choices), made_curves.curves(), A)


def test_the_view_shows_prices_neighbours_and_what_holds() -> None:
    shown = [" ".join(line.split()) for line in text(seen(A)).splitlines()]
    for row in (
        "layers.0.a 8 x 8 rank 3 48 of 64 parameters loss 1.25e-01",
        "parameters 7.81e+03 per million 64 64 0",
        "rank 1 +3.75e-01 -32 -2.50e-01 +1.25e-01",
        "rank 2 +1.25e-01 -16 -1.25e-01 0",
        "> rank 3",
        "dense -1.25e-01 +16 +1.25e-01 0",
        "held by budget: the next size that loses less needs 16 parameters, 0 are left "
        "(1.2e-01 less loss without it)",
    ):
        assert row in shown


def test_prices_of_the_relaxation_can_be_too_low() -> None:
    found = seen(A, price=0.001)
    assert found.larger is not None and found.larger.reduced_cost_nats == pytest.approx(-0.109)
    assert "below 0: worth its price" in text(found)
    assert "below 0: worth its price" not in text(seen(A))


# -- both forms ----------------------------------------------------------------------------------

# A pivot of rank r costs r (16 - r) of 64 parameters: 15, 28, 39, 48, 55, 60, 63.


def test_neighbours_have_the_form_that_needs_less_in_the_order_of_their_parameters() -> None:
    found = seen(A, form="auto")
    assert (found.decision, found.params) == (Pivot(4), 48)
    assert [other.decision for other in found.below] == [Pivot(3), Pivot(2), Pivot(1)]
    assert [other.decision for other in found.above] == [Pivot(5), Pivot(6), Pivot(7)]
    assert [other.params_change for other in found.below] == [-9, -20, -33]
    assert found.below[0].loss_change_nats == 0.125
    assert found.below[0].reduced_cost_nats == pytest.approx(0.125 - 9 / 128)


def test_a_form_that_needs_less_of_a_limit_is_a_neighbour_too() -> None:
    found = seen(A, form="auto", limits=("limit-latency{share=9}",))
    shown = [other.decision for other in (*found.below, *found.above)]
    assert LowRank(2) in shown and Pivot(2) in shown


def test_a_form_that_was_not_offered_holds_nothing() -> None:
    for form in ("pair", "pivot"):
        kinds = {"pair": {"low-rank", "dense"}, "pivot": {"pivot", "dense"}}[form]
        found = seen(A, "0.2", form=form)
        assert {other.decision.kind for other in (*found.below, *found.above)} <= kinds


def test_the_largest_pivot_is_held_by_break_even() -> None:
    found = seen(A, bounds=((A, 7, 7),), form="pivot", ratio="0.2")
    assert found.decision == Pivot(7)
    assert gains(found)["break-even"] is None


def test_the_view_names_both_forms() -> None:
    shown = [" ".join(line.split()) for line in text(seen(A, form="auto")).splitlines()]
    assert "layers.0.a 8 x 8 pivot 4 48 of 64 parameters loss 0.00e+00" in shown
    assert "> pivot 4" in shown and any(line.startswith("pivot 3 +1.25e-01 -9 ") for line in shown)


@pytest.mark.parametrize("search", [Search(align=1), Search(align=1, uniform=True)], ids=str)
def test_a_weight_that_could_not_have_a_form_keeps_its_reason(search: Search) -> None:
    why = "coefficients of 1e3 cannot be stored"
    made = allocate(
        made_curves.curves(),
        Goal(ratio="0.5"),
        profile=load_profile("h200"),
        search=search,
        without={A: {"pivot": why}},
    )
    found = explain(made, made_curves.curves(), A)
    assert found.decision.kind != "pivot"
    assert ("failure", f"pivot: {why}") in [(hold.by, hold.why) for hold in found.held_by]
    # Nothing was overlooked: the weight cannot have what would be better.
    assert "solver" not in gains(found)
    assert all(other.decision.kind != "pivot" for other in (*found.below, *found.above))
