"""solve: the best candidates under the budget, with a proof, and an error that helps when none is.

The solver itself is tested with gacfx.planning; here it is what the pass hands it and makes of it.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from torch.fx import GraphModule

from gacfx.core.curves import Curve
from gacfx.core.notes import Fact, state, targets
from gacfx.core.plan import Budget, Plan
from gacfx.errors import InfeasibleBudget, PassError, PipelineError
from gacfx.passes.planning.solve import Solve
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from tests.passes.graphs import Q0, annotated, llama, net, provenance, run, snapshot

DENSE = 4 * 20 * 24


def budget(limit_params: int, ratio_of: str = "targeted") -> Budget:
    return Budget("0.2", ratio_of, DENSE, DENSE + 440, limit_params)  # type: ignore[arg-type]


def prepared(align: int = 2) -> GraphModule:
    """The toy net with four targets of 480 parameters and five aligned ranks each."""
    return run(annotated(net()), SyntheticCurves(), SweepCandidates(align=align))


def solved(gm: GraphModule, limit_params: int) -> Plan:
    run(gm, Solve(budget=budget(limit_params), provenance=provenance(2)))
    plan = state(gm).plan
    assert plan is not None
    return plan


def options(gm: GraphModule) -> list[list[tuple[int, float]]]:
    """(parameters, loss) of every candidate of every target."""
    about = state(gm)
    assert about.curves is not None and about.candidates is not None
    return [
        [(480, 0.0) if r is None else (44 * r, float(c.loss_nats[r])) for r in about.candidates[m]]
        for m, c in about.curves.items()
    ]


@pytest.mark.parametrize("limit", [4 * 88, 700, 1000, 1536, DENSE - 1, DENSE])
def test_the_plan_is_the_best_of_all_that_fit(limit: int) -> None:
    gm = prepared()
    plan = solved(gm, limit)
    fitting = [p for p in product(*options(gm)) if sum(cost for cost, _ in p) <= limit]
    best = min(sum(loss for _, loss in p) for p in fitting)
    assert plan.kept_params <= limit
    assert plan.loss_nats == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_the_plan_says_what_each_choice_is() -> None:
    gm = prepared()
    plan = solved(gm, 1000)
    curves = state(gm).curves
    assert curves is not None
    assert [c.module for c in plan.choices] == [site.name for _, site in targets(gm)]
    for choice in plan.choices:
        assert (choice.rows * choice.columns, choice.reason) == (480, "")
        if choice.rank is not None:
            assert choice.loss_nats == curves[choice.module].loss_nats[choice.rank] > 0
        else:
            assert choice.loss_nats == 0.0


def test_the_proof_is_checked_by_the_independent_checker() -> None:
    proof = solved(prepared(), 1000).proof
    assert proof is not None
    assert (proof.status, proof.candidates) == ("optimal", 4 * 6)
    assert proof.bound >= proof.value and proof.certified_gap >= 0.0
    assert proof.usable_budget <= 1000


def test_a_whole_budget_keeps_everything_dense() -> None:
    plan = solved(prepared(), DENSE)
    assert plan.ranks == {} and plan.loss_nats == 0.0


def test_wanted_ranks_and_provenance_are_carried_into_the_plan() -> None:
    gm = prepared()
    made = provenance(2)
    run(gm, Solve(budget=budget(1000), provenance=made, wanted={"layers.0.qkv": 8.7}))
    plan = state(gm).plan
    assert plan is not None and plan.provenance == made
    assert {c.module: c.wanted for c in plan.choices}["layers.0.qkv"] == 8.7
    assert plan.choices[-1].wanted is None


def test_what_was_left_out_before_is_listed_with_its_reason() -> None:
    assert solved(prepared(), 1000).refusals == {"head": "outside the repeated layers"}


def test_a_failed_curve_stays_dense_with_its_reason() -> None:
    gm = annotated(net())
    run(gm, SyntheticCurves())
    curves = state(gm).curves
    assert curves is not None
    curves["layers.0.qkv"] = Curve("layers.0.qkv", 24, 20, np.zeros(0), "x", "no statistics")
    run(gm, SweepCandidates(align=2))
    first, *others = solved(gm, 1000).choices
    assert (first.rank, first.reason) == (None, "no statistics")
    assert all(c.reason == "" for c in others) and any(c.rank for c in others)


def test_a_weight_without_an_aligned_rank_says_why_it_is_dense() -> None:
    plan = solved(prepared(align=16), DENSE)
    assert {c.reason for c in plan.choices} == {"no aligned rank is below break-even"}


def test_a_budget_below_the_smallest_plan_says_what_could_be_reached() -> None:
    gm = prepared()
    with pytest.raises(InfeasibleBudget) as caught:
        solved(gm, 4 * 88 - 1)
    assert (caught.value.needed, caught.value.budget) == (352, 351)
    message = str(caught.value)
    assert "ratio 0.2 of the targeted weights leaves 351" in message
    assert "needs 352: 1 too few" in message
    assert message.endswith("The largest reachable ratio is 0.8166")  # 1 - 352 / 1920, cut
    assert Fact.PLAN not in snapshot(gm)[2]


def test_the_reachable_ratio_of_the_model_counts_what_is_not_targeted() -> None:
    step = Solve(budget=budget(351, "model"))
    with pytest.raises(InfeasibleBudget, match="of the model .* reachable ratio is 0.6644$"):
        step(prepared())  # 1 - (352 + 440) / (1920 + 440)


def test_without_candidates_or_budget_it_does_not_run() -> None:
    with pytest.raises(PassError, match="^solve: needs candidates, curves;"):
        Solve(budget=budget(1000))(annotated(net()))
    with pytest.raises(PipelineError, match="^solve needs budget;"):
        Solve()(prepared())


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = prepared()
    text, notes, held = snapshot(gm)
    step = Solve(budget=budget(1000))
    assert not step(gm).modified
    first = state(gm).plan
    assert snapshot(gm) == (text, notes, held | {Fact.PLAN})
    run(gm, step)
    again = state(gm).plan
    assert first is not None and again is not None and first.proof and again.proof
    same = replace(again.proof, seconds=first.proof.seconds)
    assert replace(again, proof=same) == first


def test_real_shapes_are_planned_too() -> None:
    gm = run(annotated(llama()), SyntheticCurves(), SweepCandidates())
    whole = sum(s.k.times * s.n.times for _, s in targets(gm))
    run(gm, Solve(budget=Budget("0.2", "targeted", whole, whole, whole * 4 // 5)))
    plan = state(gm).plan
    assert plan is not None and plan.kept_params <= whole * 4 // 5
    assert len(plan.choices) == 14 and plan.choices[0].module == Q0
    assert set(plan.ranks.values()) <= {8, 16, 24}
