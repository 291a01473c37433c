"""solve: the best candidates under the budget, with a proof, and an error that helps when none is.

The solver itself is tested with gacfx.knapsack; here it is what the pass hands it and makes of it.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import pytest
from torch.fx import GraphModule

from gacfx.allocation import choosers
from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.offered import Candidates
from gacfx.core.plan import Budget, Plan
from gacfx.core.search import Solver
from gacfx.errors import InfeasibleBudget, PassError, PipelineError, PlanError
from gacfx.graph.notes import Fact, state, targets
from gacfx.knapsack import Problem, Solution
from gacfx.knapsack.limits import Implies, Limit
from gacfx.passes.planning.solve import Solve
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.passes.planning.tie_layers import TieLayers
from tests.passes.graphs import Q0, annotated, llama, net, provenance, run, snapshot

WHOLE = 4 * 20 * 24
PAIRS = ((0, 2), (1, 3))
"""Targets that differ in their layer only."""


def budget(limit_params: int, ratio_of: str = "targeted", **asked: str) -> Budget:
    words = {"amount": "0.2", "ratio_of": ratio_of, **asked}
    sizes = {"targeted_params": WHOLE, "model_params": WHOLE + 440, "limit_params": limit_params}
    return Budget(**words, **sizes)  # type: ignore[arg-type]


def prepared(align: int = 2, form: str = "pair") -> GraphModule:
    """The toy net with four targets of 480 parameters and five aligned ranks of a pair each."""
    return run(annotated(net()), SyntheticCurves(), SweepCandidates(align=align, form=form))


def size(decision: Decision) -> int:
    """The rank, where dense counts as 20."""
    return 20 if decision.rank is None else decision.rank


def solved(gm: GraphModule, limit_params: int, **options: Any) -> Plan:
    run(gm, Solve(budget=budget(limit_params), provenance=provenance(2), **options))
    plan = state(gm).plan
    assert plan is not None
    return plan


def cost(decision: Decision) -> int:
    """Parameters of a weight of 20 x 24 under a decision, by the formulas of its form."""
    r = size(decision)
    return {"dense": 480, "low-rank": 44 * r, "pivot": 44 * r - r * r}[decision.kind]


def options(gm: GraphModule) -> list[list[tuple[int, float]]]:
    """(parameters, loss) of every candidate of every target."""
    about = state(gm)
    assert about.curves is not None and about.candidates is not None
    return [
        [
            (cost(d), 0.0 if d.rank is None else float(c.loss_nats[d.rank]))
            for d in about.candidates[m]
        ]
        for m, c in about.curves.items()
    ]


@pytest.mark.parametrize("form", ["pair", "pivot", "auto"])
@pytest.mark.parametrize("limit", [4 * 88, 700, 1000, 1536, WHOLE - 1, WHOLE])
def test_the_plan_is_the_best_of_all_that_fit(limit: int, form: str) -> None:
    gm = prepared(form=form)
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
    assert [c.group for c in plan.choices] == [site.name for _, site in targets(gm)]
    for choice in plan.choices:
        assert (choice.dense_params, choice.reason) == (480, "")
        if choice.rank is not None:
            assert choice.loss_nats == curves[choice.group].loss_nats[choice.rank] > 0
        else:
            assert choice.loss_nats == 0.0


def test_the_proof_is_checked_by_the_independent_checker() -> None:
    proof = solved(prepared(), 1000).proof
    assert proof is not None
    assert (proof.status, proof.candidates) == ("optimal", 4 * 6)
    assert proof.bound >= proof.value and proof.certified_gap >= 0.0
    assert proof.usable_budget <= 1000


def test_a_whole_budget_keeps_everything_dense() -> None:
    plan = solved(prepared(), WHOLE)
    assert plan.ranks == {} and plan.loss_nats == 0.0


def test_wanted_ranks_and_provenance_are_carried_into_the_plan() -> None:
    gm = prepared()
    made = provenance(2)
    run(gm, Solve(budget=budget(1000), provenance=made, wanted={"layers.0.qkv": 8.7}))
    plan = state(gm).plan
    assert plan is not None and plan.provenance == made
    assert {c.group: c.wanted for c in plan.choices}["layers.0.qkv"] == 8.7
    assert plan.choices[-1].wanted is None


def test_what_was_left_out_before_is_listed_with_its_reason() -> None:
    assert solved(prepared(), 1000).refusals == {"head": "outside the repeated layers"}


def test_a_failed_curve_stays_dense_with_its_reason() -> None:
    gm = annotated(net())
    run(gm, SyntheticCurves())
    curves = state(gm).curves
    assert curves is not None
    curves["layers.0.qkv"] = Curve("layers.0.qkv", 24, 20, np.zeros(0), "x", "no statistics")
    run(gm, SweepCandidates(align=2, form="pair"))
    first, *others = solved(gm, 1000).choices
    assert (first.rank, first.reason) == (None, "no statistics")
    assert all(c.reason == "" for c in others) and any(c.rank for c in others)


def test_a_weight_without_an_aligned_rank_says_why_it_is_dense() -> None:
    plan = solved(prepared(align=16), WHOLE)
    assert {c.reason for c in plan.choices} == {
        "no rank in steps of 16 (align 16) is below break-even"
    }
    plan = solved(prepared(align=16, form="auto"), WHOLE)
    assert {c.reason for c in plan.choices} == {
        "no rank in steps of 16 (align 16) is below break-even; none leaves an aligned rest of the "
        "short side, 20"
    }


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


# -- who chooses ---------------------------------------------------------------------------------

WANTED = dict.fromkeys(("layers.0.qkv", "layers.0.out", "layers.1.qkv", "layers.1.out"), 5.0)


@pytest.mark.parametrize("limit", [4 * 88, 700, 1000, WHOLE])
def test_exact_solvers_agree_on_the_value(limit: int) -> None:
    plans = [solved(prepared(), limit, solver=solver) for solver in ("core", "dp", "ilp")]
    for plan, solver in zip(plans, ("core", "dp", "ilp"), strict=True):
        assert plan.proof is not None and (plan.proof.solver, plan.proof.status) == (
            solver,
            "optimal",
        )
        assert plan.loss_nats == pytest.approx(plans[0].loss_nats, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("solver", ["greedy", "round"])
def test_rules_of_thumb_keep_the_budget_and_say_how_far_they_may_be_off(solver: str) -> None:
    plan = solved(prepared(), 900, solver=solver, wanted=WANTED)
    best = solved(prepared(), 900)
    proof = plan.proof
    assert proof is not None and (proof.solver, proof.status) == (solver, "bounded")
    assert plan.kept_params <= 900
    assert 0 <= plan.loss_nats - best.loss_nats <= proof.gap
    assert proof.certified_gap == pytest.approx(proof.gap, rel=1e-6)


def test_rounding_up_over_the_budget_is_taken_back() -> None:
    # Halfway between 6 and 8, which is the even multiple of 2: 4 x 8 x 44 = 1408.
    wanted = dict.fromkeys(WANTED, 7.0)
    assert set(solved(prepared(), 1408, solver="round", wanted=wanted).ranks.values()) == {8}
    plan = solved(prepared(), 1400, solver="round", wanted=wanted)
    assert sorted(plan.ranks.values()) == [6, 8, 8, 8]


def test_rules_of_thumb_start_from_the_wanted_ranks() -> None:
    # Even of 4 and 6, halfway: twice the even multiple. Then nothing has to go: 4 x 4 x 44.
    plan = solved(prepared(), 900, solver="round", wanted=WANTED)
    assert plan.ranks == dict.fromkeys(WANTED, 4)
    plan = solved(prepared(), 900, solver="round", wanted={**WANTED, "layers.0.out": 7.9})
    assert plan.ranks == {**dict.fromkeys(WANTED, 4), "layers.0.out": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "magic"}, "no solver 'magic'; known: core, dp, ilp, cbc, highs, greedy, round"),
        ({"solver": "greedy"}, "solver 'greedy' starts from wanted ranks; bind them"),
        ({"solver": "round"}, "solver 'round' starts from wanted ranks; bind them"),
    ],
)
def test_a_solver_that_cannot_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassError, match=f"^solve: {message}$"):
        solved(prepared(), 1000, **options)


@pytest.mark.parametrize("solver", ["greedy", "round"])
def test_a_rule_of_thumb_is_not_given_pivots(solver: str) -> None:
    message = f"^solve: solver '{solver}' starts from the rank of a pair and cannot place 'pivot 2'"
    with pytest.raises(PassError, match=message):
        solved(prepared(form="auto"), 1000, solver=solver, wanted=WANTED)


@pytest.mark.parametrize("solver", ["core", "dp", "ilp", "greedy", "round"])
def test_no_solver_is_believed(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = choosers.SOLVERS[solver]

    def liar(problem: Problem, asked: choosers.Asked) -> Solution:
        found = honest(problem, asked)
        return replace(found, choice=(len(problem.groups[0].costs) - 1, *found.choice[1:]))

    monkeypatch.setitem(choosers.SOLVERS, solver, liar)
    gm = prepared()
    with pytest.raises(PlanError, match="the plan fails its check: "):
        solved(gm, 4 * 88, solver=solver, wanted=dict.fromkeys(WANTED, 2.0))
    assert state(gm).plan is None


def tied() -> GraphModule:
    """The toy net with both layers held to one size each."""
    return run(prepared(), TieLayers())


def limited(most: int) -> GraphModule:
    """The toy net with a second budget: the sum of all ranks, where dense counts as 20."""
    gm = prepared()
    offered = state(gm).candidates
    assert offered is not None
    costs = {m: np.array([size(each) for each in found]) for m, found in offered.items()}
    state(gm).limit(Limit("ranks", most, costs))
    return gm


@pytest.mark.parametrize(
    ("make", "solver", "message"),
    [
        (tied, "greedy", "solver 'greedy' cannot keep SameLabel.*; take core or ilp"),
        (tied, "round", "solver 'round' cannot keep SameLabel.*; take core or ilp"),
        (lambda: limited(30), "dp", "solver 'dp' cannot keep limit 'ranks'; take core or ilp"),
        (lambda: limited(30), "greedy", "solver 'greedy' cannot keep limit 'ranks'"),
    ],
)
def test_a_solver_is_not_asked_for_what_it_cannot_keep(
    make: Callable[[], GraphModule], solver: str, message: str
) -> None:
    with pytest.raises(PassError, match=message):
        solved(make(), 1000, solver=solver, wanted=WANTED)


# -- rules and limits ----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["core", "dp", "ilp"])
@pytest.mark.parametrize("limit", [4 * 88, 1000, WHOLE - 1])
def test_tied_layers_take_one_size_at_the_least_loss(solver: str, limit: int) -> None:
    plan = solved(tied(), limit, solver=solver)
    ranks = {choice.group: choice.rank for choice in plan.choices}
    assert ranks["layers.0.qkv"] == ranks["layers.1.qkv"]
    assert ranks["layers.0.out"] == ranks["layers.1.out"]
    qkv, out = (list(zip(*(options(prepared())[i] for i in pair), strict=True)) for pair in PAIRS)
    plans = [(*a, *b) for a, b in product(qkv, out)]
    fitting = [p for p in plans if sum(cost for cost, _ in p) <= limit]
    best = min(sum(loss for _, loss in p) for p in fitting)
    assert plan.loss_nats == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert plan.rules == 2 and plan.kept_params <= limit


@pytest.mark.parametrize("solver", ["core", "ilp"])
@pytest.mark.parametrize("most", [8, 20, 33, 80])
def test_a_limit_is_kept_at_the_least_loss(solver: str, most: int) -> None:
    plan = solved(limited(most), 1536, solver=solver)
    sizes = [size(c.decision) for c in plan.choices]
    assert [(k.name, k.most, k.spent) for k in plan.limits] == [("ranks", most, sum(sizes))]
    assert sum(sizes) <= most
    fitting = [
        p
        for p in product(*options(prepared()))
        if sum(cost for cost, _ in p) <= 1536
        and sum(20 if cost == 480 else cost // 44 for cost, _ in p) <= most
    ]
    best = min(sum(loss for _, loss in p) for p in fitting)
    assert plan.loss_nats == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_a_limit_that_no_plan_keeps_says_what_could_be_kept() -> None:
    with pytest.raises(InfeasibleBudget, match="limit 'ranks': no plan .* to 7; the smallest is 8"):
        solved(limited(7), 1536)


def test_a_budget_and_a_limit_that_exclude_each_other_are_both_named() -> None:
    gm = prepared()
    offered = state(gm).candidates
    assert offered is not None
    # The second budget likes large ranks, the first small ones.
    costs = {m: np.array([20 - size(d) for d in s]) for m, s in offered.items()}
    state(gm).limit(Limit("smallness", 40, costs))
    with pytest.raises(InfeasibleBudget) as caught:
        solved(gm, 500)
    message = str(caught.value)
    # 500 parameters are 10 ranks in steps of 2: 80 - 10.
    assert message.startswith(
        "limit 'smallness': no plan within the budget (ratio 0.2 of the targeted weights) keeps "
        "to 40; the smallest is 70"
    )


def test_what_is_no_limit_and_no_rule_is_refused() -> None:
    gm = prepared()
    state(gm).limits = ("fast",)
    with pytest.raises(PassError, match="limit 'fast' is no gacfx.knapsack.limits.Limit"):
        solved(gm, 1000)
    gm = prepared()
    state(gm).rule("same")
    with pytest.raises(PassError, match="rule 'same' is neither SameLabel nor Implies"):
        solved(gm, 1000)


def test_an_implication_of_another_pass_is_kept() -> None:
    gm = prepared()
    free = {c.group: c.rank for c in solved(gm, 1000).choices}
    first, last = "layers.0.qkv", "layers.1.out"
    label = free[first] or "dense"
    assert label != 2 and free[last] != 2
    state(gm).rule(Implies(first, (label,), last, (2,)))
    plan = solved(gm, 1000)
    found = {c.group: c.rank for c in plan.choices}
    assert found[first] != free[first] or found[last] == 2


# -- candidates of other passes ------------------------------------------------------------------


def test_a_pass_may_take_candidates_away() -> None:
    gm = prepared()
    free = solved(gm, 1000).ranks["layers.0.qkv"]
    offered = state(gm).candidates
    assert offered is not None
    offered["layers.0.qkv"] = tuple(each for each in offered["layers.0.qkv"] if each.rank != free)
    assert solved(gm, 1000).ranks.get("layers.0.qkv") != free


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((), "layers.0.qkv: no candidate is left"),
        ((LowRank(0), LowRank(2)), "layers.0.qkv: rank 0 is outside 1 .. 20"),
        ((LowRank(2), LowRank(21)), "layers.0.qkv: rank 21 is outside 1 .. 20"),
        ((Pivot(2), Pivot(20)), "layers.0.qkv: pivot rank 20 is outside 1 .. 19"),
    ],
)
def test_candidates_that_are_no_sizes_name_the_weight(sizes: Candidates, message: str) -> None:
    gm = prepared()
    offered = state(gm).candidates
    assert offered is not None
    offered["layers.0.qkv"] = sizes
    with pytest.raises(PassError, match=f"^solve: {message}; look at the pass that lists them"):
        solved(gm, 1000)


def test_only_the_dense_weight_left_by_another_pass_is_a_reason() -> None:
    gm = prepared()
    offered = state(gm).candidates
    assert offered is not None
    offered["layers.0.qkv"] = (DENSE,)
    assert solved(gm, 1536).choices[0].reason == "no other size was offered"


def test_a_budget_in_parameters_says_what_could_be_reached_in_parameters() -> None:
    step = Solve(budget=budget(351, "model", amount="791", unit="params"))
    with pytest.raises(InfeasibleBudget) as caught:
        step(prepared())
    assert str(caught.value) == (
        "791 parameters of the model leaves 351 parameters, but the smallest plan needs 352: 1 too "
        "few. The smallest reachable is 792 parameters, a ratio of 0.6644"
    )


def test_real_shapes_are_planned_too() -> None:
    gm = run(annotated(llama()), SyntheticCurves(), SweepCandidates(form="pair"))
    whole = sum(s.k.times * s.n.times for _, s in targets(gm))
    run(gm, Solve(budget=Budget("0.2", "targeted", whole, whole, whole * 4 // 5)))
    plan = state(gm).plan
    assert plan is not None and plan.kept_params <= whole * 4 // 5
    assert len(plan.choices) == 14 and plan.choices[0].group == Q0
    assert set(plan.ranks.values()) <= {8, 16, 24}


@pytest.mark.parametrize(
    ("solver", "door", "expected"),
    [
        ("core", "solve", {"gap": 0.5, "time_limit": 9.0}),
        ("ilp", "solve_ilp", {"time_limit": 9.0, "solver": "auto"}),
        ("cbc", "solve_ilp", {"time_limit": 9.0, "solver": "cbc"}),
        pytest.param(
            *("highs", "solve_ilp", {"time_limit": 9.0, "solver": "highs"}),
            marks=pytest.mark.skipif(
                find_spec("highspy") is None, reason="highspy is not installed"
            ),
        ),
    ],
)
def test_a_solver_is_told_when_to_stop(
    solver: Solver, door: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, seen = getattr(choosers, door), []

    def watched(problem: Problem, **told: Any) -> Solution:
        seen.append(told)
        found: Solution = honest(problem, **told)
        return found

    monkeypatch.setattr(choosers, door, watched)
    gap = 0.5 if solver == "core" else 0.0
    solved(prepared(), WHOLE, solver=solver, gap=gap, time_limit=9.0)
    assert seen == [expected]
