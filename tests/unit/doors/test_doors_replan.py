"""Plans from saved curves are the plans that the model would have got."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gacfx import api
from gacfx.allocation.budget import make_budget, wanted_ranks
from gacfx.cli import main
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.decision import Pivot, PivotInOrder
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.search import Search
from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.graph.notes import state
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.profile import load
from gacfx.replan import plan_from_curves, problem_of, synthetic_graph
from gacfx.study import Study
from tests import tiny
from tests.unit import made_curves

PROFILE = load("h200")
TIMES = "limit-latency{share=1.9 batch=2 seq=256}"


@cache
def study() -> Study:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    return Study.make(model, api.read_calibration(tiny.texts(), model, tokenizer), method="svd-llm")


def both(goal: Goal, search: Search, path: Path) -> tuple[Any, Any]:
    """The plan of the model, and the one of its curves after a way through a file."""
    plan = study().plan(goal, profile=PROFILE, search=search).plan
    save_curves(path, study().curves_of(plan))
    return plan, plan_from_curves(load_curves(path), goal=goal, gpu=PROFILE, search=search)


def as_offered(plan: Plan) -> Plan:
    """The plan before its pivots came in order, of which only the model knows."""
    made = []
    for choice in plan.choices:
        decision = choice.decision
        if isinstance(decision, PivotInOrder):
            decision = Pivot(decision.rank)
        made.append(replace(choice, decision=decision))
    return replace(plan, choices=tuple(made))


@pytest.mark.parametrize(
    "search",
    [
        Search(),
        Search(value="fisher", form="pair"),
        Search(value="fisher", form="pivot"),
        Search(value="relative", align=16),
        Search(value="fisher", uniform=True, limits=(TIMES,)),
        Search(value="fisher", tp=2, align=4, quant="int8"),
        Search(value="fisher", bounds=(("*.q_proj", 8, 16),)),  # type: ignore[arg-type]
        Search(value="fisher", candidates="window", window=3),
        Search(value="fisher", solver="greedy"),
        Search.paper(),
    ],
    ids=str,
)
def test_a_plan_from_curves_is_the_plan_from_the_model(search: Search, tmp_path: Path) -> None:
    plan, again = both(Goal(ratio="0.3"), search, tmp_path / "c")
    assert again.choices == as_offered(plan).choices and again.ranks
    assert (again.loss_nats, again.budget) == (plan.loss_nats, plan.budget)
    assert (again.limits, again.rules, again.refusals) == (plan.limits, plan.rules, plan.refusals)
    assert (again.fingerprint, again.digests) == (plan.fingerprint, plan.digests)
    assert again.provenance == replace(plan.provenance, trials=())
    untimed = [replace(p.proof, seconds=0.0) for p in (plan, again)]
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize(
    "goal", [Goal(ratio=0.25, of="model"), Goal(params="80k"), Goal(nbytes="340kB")], ids=str
)
def test_every_goal_means_the_same_without_the_model(goal: Goal, tmp_path: Path) -> None:
    plan, again = both(goal, Search(value="fisher"), tmp_path / "c")
    assert (again.choices, again.budget) == (as_offered(plan).choices, plan.budget)


def test_what_cannot_be_reached_is_said_in_the_same_words(tmp_path: Path) -> None:
    search = Search(value="fisher")
    both(Goal(ratio="0.3"), search, tmp_path / "c")
    said = []
    for solve in (
        lambda: study().plan("0.95", profile=PROFILE, search=search),
        lambda: plan_from_curves(load_curves(tmp_path / "c"), ratio="0.95", search=search),
    ):
        with pytest.raises(InfeasibleBudget, match="The largest reachable ratio is") as caught:
            solve()
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_dense_reasons_come_without_the_model() -> None:
    plan = plan_from_curves(made_curves.curves(), ratio=0, search=Search(align=64, form="pair"))
    (reason,) = {choice.reason for choice in plan.choices}
    assert reason == "no rank in steps of 64 (align 64) is below break-even"
    plan = plan_from_curves(made_curves.curves(), ratio=0, search=Search(align=64))
    (reason,) = {choice.reason for choice in plan.choices}
    assert reason.endswith("; none leaves an aligned rest of the short side, 8")


def test_the_curves_of_a_plan_are_those_of_its_value_model() -> None:
    made = {
        value: study().plan("0.3", profile=PROFILE, search=Search(value=value)).plan
        for value in ("fisher", "relative")
    }
    for value, plan in made.items():  # in any order, whatever was planned last
        found = study().curves_of(plan)
        assert found.value_model == value
        assert found.facts.provenance == plan.provenance
        assert [found.curves[c.group].loss(c.decision) for c in plan.choices] == [
            c.loss_nats for c in plan.choices
        ]


def test_losses_of_another_kind_need_the_model() -> None:
    for value in ("relative", "paper"):
        with pytest.raises(PlanError, match="the curves hold 'fisher'.* need the model"):
            plan_from_curves(made_curves.curves(), search=Search(value=value))


def test_a_dtype_that_torch_does_not_have_is_refused() -> None:
    with pytest.raises(PlanError, match="no dtype 'bf17'"):
        plan_from_curves(made_curves.curves(others={"bf17": 172}), goal=Goal(nbytes="1MB"))


def test_a_problem_of_curves_offers_what_the_plan_chose_from() -> None:
    search = Search(align=1, form="pair")
    problem, case = problem_of(made_curves.curves(), search=search)
    assert problem.budget == 128
    assert [group.labels for group in problem.groups] == [(1, 2, 3, "dense")] * 2
    assert problem.groups[0].costs.tolist() == [16, 32, 48, 64]
    assert problem.groups[1].values.tolist() == [-0.1, -0.05, -0.02, 0.0]
    offered = case.offered.candidates or {}
    assert [tuple(each.label for each in offered[g.name]) for g in problem.groups] == [
        group.labels for group in problem.groups
    ]
    problem, _ = problem_of(made_curves.curves(), search=Search(align=2))
    assert [group.labels for group in problem.groups] == [
        (2, "pivot 2", "pivot 4", "pivot 6", "dense")
    ] * 2
    assert problem.groups[0].costs.tolist() == [32, 28, 48, 60, 64]


def test_a_problem_of_all_budgets_has_no_window() -> None:
    with pytest.raises(PlanError, match="a window stands around ranks of one budget"):
        problem_of(made_curves.curves(), search=Search(candidates="window"))


def test_the_best_plan_of_two_weights_is_that_on_paper() -> None:
    plan = plan_from_curves(made_curves.curves(), ratio="0.5", search=Search(align=1, form="pair"))
    assert plan.ranks == {"layers.0.a": 3, "layers.0.b": 1}
    assert plan.loss_nats == 0.125 + 0.1
    assert plan.proof is not None and plan.proof.certified_gap == 0


@pytest.mark.parametrize("value", ["", "paper"])
def test_a_synthetic_plan_is_that_of_the_whole_graph(value: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path)
    search = Search.paper() if value else Search()
    plan = api.plan_synthetic(folder, goal="0.3", search=search, decay=0.7, seed=3)
    gm, curves = synthetic_graph(folder, decay=0.7, seed=3, value=value)
    budget = make_budget(curves.facts, Goal(ratio="0.3"))
    window = f" window={search.window} dense=false" if value else ""
    steps = (
        f"sweep-candidates{{align={plan.provenance.align} form={search.form}{window}}},"
        f"solve{{solver={search.solver}}}"
    )
    Pipeline.parse(steps).bind(budget=budget, wanted=wanted_ranks(curves.facts, budget)).run(gm)
    again = state(gm).plan
    assert again is not None
    assert (again.choices, again.refusals) == (plan.choices, plan.refusals)
    assert again.budget == plan.budget
    assert plan.provenance.value_model == "synthetic decay 0.7" + (", paper" if value else "")


def test_pruning_needs_curves_of_structures(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = Search(prune="both")
    for door in (plan_from_curves, problem_of):
        with pytest.raises(PlanError, match="^prune 'both': these curves know no coupled struct"):
            door(made_curves.curves(), search=wanted)
    assert main(["plan", "llama-3-8b", "--synthetic", "0.5", "--prune", "both"]) == 2
    assert "makes up no losses of structures; leave out --prune" in capsys.readouterr().err
