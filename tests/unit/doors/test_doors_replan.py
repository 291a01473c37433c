"""Plans from saved curves are the plans that the model would have got."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gacfx.passes.planning.budget import make_budget, wanted_ranks

from gacfx import api, pipelines
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.goal import Goal
from gacfx.core.search import Search
from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.profile import load
from gacfx.replan import bare_graph, curves_of, plan_from_curves, problem_of
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
    save_curves(path, curves_of(study().graph, plan))
    return plan, plan_from_curves(load_curves(path), goal=goal, gpu=PROFILE, search=search)


@pytest.mark.parametrize(
    "search",
    [
        Search(),
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
    assert again.choices == plan.choices and again.ranks
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
    assert (again.choices, again.budget) == (plan.choices, plan.budget)


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
    plan = plan_from_curves(made_curves.curves(), ratio=0, search=Search(align=64))
    (reason,) = {choice.reason for choice in plan.choices}
    assert reason == "no rank in steps of 64 (align 64) is below break-even"


def test_curves_are_asked_for_right_after_planning() -> None:
    old = study().plan("0.3", profile=PROFILE, search=Search(value="fisher")).plan
    new = study().plan("0.3", profile=PROFILE, search=Search(value="relative")).plan
    with pytest.raises(PlanError, match="does not hold the curve .* right after planning"):
        curves_of(study().graph, old)
    assert curves_of(study().graph, new).value_model == "relative"


def test_losses_of_another_kind_need_the_model() -> None:
    for value in ("relative", "paper"):
        with pytest.raises(PlanError, match="the curves hold 'fisher'.* need the model"):
            plan_from_curves(made_curves.curves(), search=Search(value=value))


def test_a_dtype_that_torch_does_not_have_is_refused() -> None:
    with pytest.raises(PlanError, match="no dtype 'bf17'"):
        bare_graph(made_curves.curves(others={"bf17": 172}))


def test_a_problem_of_curves_offers_what_the_plan_chose_from() -> None:
    problem = problem_of(made_curves.curves(), search=Search(align=1))
    assert problem.budget == 128
    assert [group.labels for group in problem.groups] == [(1, 2, 3, "dense")] * 2
    assert problem.groups[0].costs.tolist() == [16, 32, 48, 64]
    assert problem.groups[1].values.tolist() == [-0.1, -0.05, -0.02, 0.0]


def test_a_problem_of_all_budgets_has_no_window() -> None:
    with pytest.raises(PlanError, match="a window stands around ranks of one budget"):
        problem_of(made_curves.curves(), search=Search(candidates="window"))


def test_the_best_plan_of_two_weights_is_that_on_paper() -> None:
    plan = plan_from_curves(made_curves.curves(), ratio="0.5", search=Search(align=1))
    assert plan.ranks == {"layers.0.a": 3, "layers.0.b": 1}
    assert plan.loss_nats == 0.125 + 0.1
    assert plan.proof is not None and plan.proof.certified_gap == 0


@pytest.mark.parametrize("value", ["", "paper"])
def test_a_synthetic_plan_is_that_of_the_whole_graph(value: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path)
    search = Search.paper() if value else Search()
    plan = api.plan_synthetic(folder, goal="0.3", search=search, decay=0.7, seed=3)
    gm = api.capture(folder)
    Pipeline.parse(pipelines.SELECT).run(gm)
    budget = make_budget(gm, Goal(ratio="0.3"))
    curves = pipelines.step("synthetic-curves", decay=0.7, seed=3, value=value)
    again = run_planning(
        gm,
        pipelines.planning(search, curves, plan.provenance.align),
        budget=budget,
        wanted=wanted_ranks(gm, budget),
        profile=PROFILE,
    )
    assert (again.choices, again.refusals) == (plan.choices, plan.refusals)
    assert again.budget == plan.budget
    assert plan.provenance.value_model == "synthetic decay 0.7" + (", paper" if value else "")
