"""allocate: a pure function whose plan is the best of all combinations, in both forms."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.allocation.allocate import allocate
from gacfx.allocation.budget import make_budget, wanted_ranks
from gacfx.core.curve_file import Curves
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.provenance import Provenance
from gacfx.core.search import Bound, Search
from gacfx.core.sites import Workload
from gacfx.errors import InfeasibleBudget, PassError
from gacfx.graph.notes import state
from gacfx.passes.planning.limit_latency import LimitLatency
from gacfx.passes.planning.read_graph import graph_curves
from gacfx.passes.planning.solve import Solve
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.passes.planning.tie_layers import TieLayers
from tests.passes.graphs import annotated, llama, run
from tests.unit import made_curves
from tests.unit.allocation.small import (
    H200,
    Item,
    Shape,
    best_loss,
    curves_of,
    falling,
    items,
    untimed,
)

SHAPES = st.sampled_from([(16, 16), (16, 24), (24, 16), (32, 24), (20, 32), (32, 12), (64, 32)])
STEPS = st.lists(st.integers(0, 1000), min_size=1, max_size=8)
PROBLEMS = st.lists(st.builds(falling, SHAPES, STEPS), min_size=1, max_size=3)


def named(made: Sequence[tuple[Shape, Sequence[float]]]) -> dict[str, tuple[Shape, list[float]]]:
    """Modules in order, their losses in nats."""
    return {
        f"layers.{i}.a": (shape, [loss / 1000 for loss in losses])
        for i, (shape, losses) in enumerate(made)
    }


# -- the passes, and no torch --------------------------------------------------------------------

MADE = Provenance("none", "made up", gpu="", align=1, dtype="fp32")


def from_passes(curves: Curves, goal: Goal, search: Search, limit: LimitLatency | None) -> Plan:
    """The same plan, by the passes run on the graph."""
    budget = make_budget(curves.facts, goal)
    wanted = wanted_ranks(curves.facts, budget)
    gm = run(annotated(llama()), SyntheticCurves())
    sweep = SweepCandidates(
        align=search.align or 8,
        tp=search.tp,
        quant=search.quant or "",
        form="pair" if search.pairs_only else search.form,
        bounds=tuple(map(str, search.bounds)),
        window=search.window if search.candidates == "window" else 0,
        wanted=wanted,
    )
    ties = (TieLayers(),) if search.uniform else ()
    limits = (limit,) if limit else ()
    solver = Solve(solver=search.solver, budget=budget, wanted=wanted)
    found = state(run(gm, sweep, *ties, *limits, solver)).plan
    assert found is not None
    return found


@pytest.mark.parametrize("goal", [Goal(ratio="0.3"), Goal(params="40k")], ids=str)
@pytest.mark.parametrize(
    ("search", "share"),
    [
        (Search(align=8), 0.0),
        (Search(align=4, form="pair"), 0.0),
        (Search(align=8, form="pivot"), 0.0),
        (Search(align=4, uniform=True), 0.0),
        (Search(align=4, tp=2), 0.0),
        (Search(align=8, candidates="window", window=3), 0.0),
        (Search(align=8, bounds=(Bound("*.q_proj", 8, 32),), quant="int8"), 0.0),
        (Search(align=4, solver="greedy"), 0.0),
        (Search(align=8), 1.6),
        (Search(align=8, solver="ilp", uniform=True), 1.6),
    ],
    ids=str,
)
def test_it_is_what_the_passes_do_on_the_graph(search: Search, share: float, goal: Goal) -> None:
    gm = run(annotated(llama()), SyntheticCurves())
    curves = graph_curves(gm, MADE)
    limit = LimitLatency(share=share, batch=64, profile=H200) if share else None
    limiters = (limit,) if limit else ()
    plan = untimed(allocate(curves, goal, profile=H200, search=search, limiters=limiters))
    again = untimed(from_passes(curves, goal, search, limit))
    assert plan.decisions
    assert again.choices == plan.choices
    assert (again.budget, again.proof, again.refusals) == (plan.budget, plan.proof, plan.refusals)
    assert (again.limits, again.rules) == (plan.limits, plan.rules)


def test_it_changes_nothing_and_gives_the_same_again() -> None:
    curves = made_curves.curves()
    before = {module: loss.tobytes() for module, loss in curves.losses.items()}
    facts = curves.facts
    search = Search(align=1)
    plans = [
        untimed(allocate(curves, Goal(ratio="0.4"), profile=H200, search=search)) for _ in "ab"
    ]
    assert plans[0] == plans[1]
    assert {module: loss.tobytes() for module, loss in curves.losses.items()} == before
    assert curves.facts is facts and facts == made_curves.facts()


ALONE = """
import sys
sys.modules["torch"] = None
from gacfx.allocation.allocate import allocate
from gacfx.core.goal import Goal
from gacfx.core.search import Search
from gacfx.hardware.profile import load_profile
from tests.unit import made_curves
plan = allocate(
    made_curves.curves(),
    Goal(ratio="0.4"),
    profile=load_profile("h200"),
    search=Search(align=1),
)
print(*(choice.decision for choice in plan.choices))
"""


def test_it_plans_where_there_is_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "pivot 4 pivot 2\n"), done.stderr


# -- the best of all combinations ----------------------------------------------------------------


def tables(
    losses: dict[str, tuple[Shape, list[float]]], step: int, workload: Workload | None = None
) -> list[list[Item]]:
    sites = {weight.module: weight.site for weight in curves_of(losses).facts.weights}
    return [
        list(items(shape, loss, step, site=sites[module], workload=workload))
        for module, (shape, loss) in losses.items()
    ]


@settings(max_examples=60)
@given(PROBLEMS, st.sampled_from([4, 8]), st.integers(0, 95))
def test_the_plan_is_the_best_of_all_that_fit(
    made: list[tuple[Shape, list[float]]], step: int, percent: int
) -> None:
    losses = named(made)
    curves, goal = curves_of(losses), Goal(ratio=f"0.{percent:02d}")
    limit = make_budget(curves.facts, goal).limit_params
    best = best_loss(tables(losses, step), limit)
    if best is None:
        with pytest.raises(InfeasibleBudget):
            allocate(curves, goal, profile=H200, search=Search(align=step))
        return
    plan = allocate(curves, goal, profile=H200, search=Search(align=step))
    assert plan.loss_nats == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert plan.kept_params <= limit
    assert plan.kept_params == sum(
        item.params
        for table, choice in zip(tables(losses, step), plan.choices, strict=True)
        for item in table
        if item.decision == choice.decision
    )
    for choice in plan.choices:
        # The pivot of a rank costs less than its pair and loses the same.
        shape = losses[choice.group][0]
        assert choice.decision.kind != "low-rank" or min(shape) % step


@settings(max_examples=60)
@given(
    PROBLEMS,
    st.integers(0, 60),
    st.sampled_from([0.9, 1.0, 1.3, 1.9, 2.6, 4.0]),
    st.sampled_from([Workload(1, 512, "decode"), Workload(64, 2048)]),
    st.booleans(),
)
def test_under_a_limit_too(
    made: list[tuple[Shape, list[float]]], percent: int, share: float, workload: Workload, big: bool
) -> None:
    if big:  # where copies and products take longer than starting them
        made = [falling((16 * a, 16 * b), loss[:8]) for (a, b), loss in made]
    losses, step = named(made), 64 if big else 8
    curves, goal = curves_of(losses), Goal(ratio=f"0.{percent:02d}")
    every = tables(losses, step, workload)
    dense = sum(table[-1].ns for table in every)
    limit = make_budget(curves.facts, goal).limit_params
    best = best_loss(every, limit, int(round(share * 10) * dense // 10))
    limiter = LimitLatency(
        share=share, mode=workload.mode, batch=workload.batch, seq=workload.seq, profile=H200
    )
    asked = {"profile": H200, "search": Search(align=step), "limiters": (limiter,)}
    if best is None:
        with pytest.raises(InfeasibleBudget):
            allocate(curves, goal, **asked)  # type: ignore[arg-type]
        return
    plan = allocate(curves, goal, **asked)  # type: ignore[arg-type]
    assert plan.loss_nats == pytest.approx(best, rel=1e-9, abs=1e-12)
    (kept,) = plan.limits
    spent = sum(
        next(item.ns for item in table if item.decision == choice.decision)
        for table, choice in zip(every, plan.choices, strict=True)
    )
    assert (kept.spent, kept.dense) == (spent, dense) and spent <= kept.most


# -- both forms compete --------------------------------------------------------------------------


def test_under_one_budget_pivots_win() -> None:
    losses = {"layers.0.a": falling((64, 64), [1.0])}
    free = allocate(curves_of(losses), Goal(ratio="0.25"), profile=H200, search=Search(align=8))
    assert free.decisions == {"layers.0.a": Pivot(32)}
    pairs = Search(align=8, form="pair")
    pair = allocate(curves_of(losses), Goal(ratio="0.25"), profile=H200, search=pairs)
    assert pair.decisions == {"layers.0.a": LowRank(24)} and pair.loss_nats > free.loss_nats


@pytest.mark.parametrize(
    ("share", "expected"),
    # A small weight in decode costs its launches: 1 dense, 2 a pair, 4 a pivot with its copies.
    [(4.2, [Pivot(32), Pivot(32)]), (3.2, [Pivot(32), LowRank(24)]), (2.2, [LowRank(24)] * 2)],
)
def test_under_a_latency_limit_a_pair_wins_where_launches_count(
    share: float, expected: list[Pivot | LowRank]
) -> None:
    losses = {f"layers.{i}.a": falling((64, 64), [0.9**r for r in range(64)]) for i in range(2)}
    limiter = LimitLatency(share=share, mode="decode", profile=H200)
    plan = allocate(
        curves_of(losses),
        Goal(ratio="0.25"),
        profile=H200,
        search=Search(align=8),
        limiters=(limiter,),
    )
    assert sorted(plan.decisions.values(), key=str) == sorted(expected, key=str)


def test_no_time_to_spare_leaves_a_small_weight_dense() -> None:
    losses = {"layers.0.a": falling((64, 64), [1.0]), "layers.1.a": falling((64, 64), [1.0])}
    limiter = LimitLatency(share=1.5, mode="decode", profile=H200)
    plan = allocate(
        curves_of(losses),
        Goal(ratio="0.125"),
        profile=H200,
        search=Search(align=8),
        limiters=(limiter,),
    )
    assert sorted(choice.decision.kind for choice in plan.choices) == ["dense", "low-rank"]


# -- weights that cannot have a form -------------------------------------------------------------

WHY = "coefficients of 1e3; too large: cannot be stored"


def test_a_weight_that_cannot_have_pivots_has_the_rest_and_says_why() -> None:
    losses = {f"layers.{i}.a": falling((64, 64), [1.0]) for i in range(3)}
    curves, search = curves_of(losses), Search(align=8)
    without = {"layers.1.a": {"pivot": WHY}}
    plan = allocate(curves, Goal(ratio="0.25"), profile=H200, search=search, without=without)
    first, second, third = plan.choices
    assert second.decision.kind != "pivot" and second.lacks == {"pivot": WHY}
    assert {c.reason for c in (first, second, third)} == {""}
    assert (first.lacks, third.lacks) == ({}, {})
    assert Plan.from_json(plan.to_json()) == plan
    # The other two are as in a problem of their own.
    best = best_loss(
        [
            list(items((64, 64), loss, 8, pivots=module != "layers.1.a"))
            for module, (_, loss) in losses.items()
        ],
        plan.budget.limit_params,
    )
    assert plan.loss_nats == pytest.approx(best)


@pytest.mark.parametrize("search", [Search(align=8), Search(align=4, tp=2)], ids=str)
def test_a_weight_without_any_form_stays_dense(search: Search) -> None:
    losses = {f"layers.{i}.a": falling((64, 64), [1.0]) for i in range(2)}
    lacks = dict.fromkeys(search.kinds, "overflow")
    plan = allocate(
        curves_of(losses),
        Goal(ratio="0.25"),
        profile=H200,
        search=search,
        without={"layers.0.a": lacks},
    )
    first, second = plan.choices
    assert first.decision is DENSE and not second.decision.is_dense
    assert first.reason == "; ".join(("no form is left", *(f"{kind}: overflow" for kind in lacks)))
    assert first.lacks == lacks


def test_what_cannot_be_made_says_so_when_nothing_is_left() -> None:
    lacks = {kind: {"low-rank": "overflow", "pivot": WHY} for kind in made_curves.LOSSES}
    asked = {"profile": H200, "search": Search(align=1)}
    with pytest.raises(InfeasibleBudget, match="Nothing can be made smaller: no form is left; low"):
        allocate(made_curves.curves(), Goal(ratio="0.5"), without=lacks, **asked)  # type: ignore[arg-type]
    bounded = {**asked, "search": Search(align=1, bounds=(Bound("*.a", 1, 3),))}
    with pytest.raises(PassError, match="layers.0.a: no candidate is left: no form is left"):
        allocate(made_curves.curves(), Goal(ratio="0.5"), without=lacks, **bounded)  # type: ignore[arg-type]


# -- what the plan carries -----------------------------------------------------------------------


def test_locks_refusals_and_provenance_are_those_of_the_curves() -> None:
    curves, search = made_curves.curves(), Search(align=1, tp=2)
    plan = allocate(curves, Goal(ratio="0.4"), profile=H200, search=search)
    facts = curves.facts
    assert (plan.fingerprint, plan.digests) == (facts.fingerprint, facts.digests)
    assert plan.refusals == facts.refusals
    made = plan.provenance
    assert (made.gpu, made.align, made.search, made.value_model) == ("h200", 2, search, "fisher")
    assert (made.versions, made.method) == (facts.provenance.versions, facts.provenance.method)
    budget = make_budget(facts, Goal(ratio="0.4"))
    wanted = wanted_ranks(facts, budget)
    assert {choice.group: choice.wanted for choice in plan.choices} == wanted


def test_a_failed_curve_stays_dense_in_both_forms() -> None:
    curves = curves_of({"layers.0.a": ((8, 8), [])}, failed="no statistics")
    plan = allocate(curves, Goal(ratio=0), profile=H200, search=Search(align=1))
    assert [(c.decision, c.reason) for c in plan.choices] == [(DENSE, "no statistics")]


def test_losses_that_are_equal_take_the_smaller_form() -> None:
    """Of two forms with one loss the cheaper one is taken, even if both fit."""
    losses = {"layers.0.a": ((16, 16), [1.0, *np.zeros(16)])}
    plan = allocate(curves_of(losses), Goal(ratio="0.1"), profile=H200, search=Search(align=4))
    assert plan.loss_nats == 0.0
    assert plan.choices[0].decision.kind != "low-rank"
