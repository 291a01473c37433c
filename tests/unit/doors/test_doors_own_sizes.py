"""A method's own sizes through the doors: what is asked for, tried, kept and refused."""

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.api import calibrate, compress, load_profile
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus
from gacfx.compressors.allocate import upstream_rank
from gacfx.compressors.methods import METHODS
from gacfx.compressors.values import NATS, unit_of
from gacfx.core.curve_file import load_curves
from gacfx.core.goal import Goal
from gacfx.core.own_sizes import OWN_RANKS, OWN_VALUE, OWN_WIDTHS, is_own
from gacfx.core.planned import Planned
from gacfx.core.search import Bound, Search
from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.modules.install import swapped
from gacfx.replan import plan_from_curves
from gacfx.report.plan_view import own_line
from gacfx.request import Request
from gacfx.study import Study
from gacfx.upstream import check_own
from tests import tiny

PROFILE = load_profile("h200")


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, 258, (48,), generator=random) for _ in range(8)))


def calibrated(method: str = "svd-llm", work: Path | None = None, layers: int = 1) -> Study:
    model = tiny.llama(hidden=32, width=48, layers=layers)
    return calibrate(model, calibration=corpus(), method=method, force=True, work=work)


@cache
def study() -> Study:
    return calibrated()


def asked(**more: Any) -> dict[str, Any]:
    return {"calibration": corpus(), "sizes": "own", "force": True, "max_loss": 9.0, **more}


# -- what is asked for ----------------------------------------------------------------------------


def test_the_search_of_a_request_is_that_of_own_sizes() -> None:
    assert Request(method="asvd", sizes="own").search == OWN_RANKS
    assert Request(method="llm-pruner", sizes="own").search == OWN_WIDTHS
    found = Request(method="llm-pruner", sizes="own", search=Search(prune="only"))
    assert found.search == OWN_WIDTHS
    assert Request(method="asvd").search == Search()
    again = replace(Request(method="asvd", sizes="own"), seed=3)
    assert (again.search, again.seed) == (OWN_RANKS, 3)


@pytest.mark.parametrize(
    ("search", "named"),
    [
        (Search(align=16), "align"),
        (Search(corrections=2, uniform=True), "corrections, uniform"),
        (Search(limits=("limit-latency{share=0.9}",)), "limits"),
        (Search(bounds=(Bound("*", 8),)), "bounds"),
        (Search(prune="both"), "prune"),
        (Search.paper(), "value, candidates, form, solver"),
    ],
)
def test_what_is_searched_is_refused_beside_own_sizes(search: Search, named: str) -> None:
    with pytest.raises(PlanError, match=f"chooses by itself.*leave out {named}, or take sizes"):
        Request(method="svd", sizes="own", search=search)


@pytest.mark.parametrize("method", [*METHODS])
def test_own_sizes_can_be_asked_of_every_method(method: str) -> None:
    assert Request(method=method, sizes="own").sizes == "own"


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(PlanError, match="no sizes 'mine'; known: planned, own"):
        Request(sizes="mine")  # type: ignore[arg-type]


def test_pruning_is_refused_for_a_method_that_makes_ranks() -> None:
    with pytest.raises(PlanError, match="leave out prune"):
        Request(method="svd-llm", sizes="own", search=Search(prune="only"))


# -- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "goal", [Goal(ratio="0.3"), Goal(ratio="0.1", of="model"), Goal(params=22_000)]
)
def test_every_goal_becomes_a_share_of_the_targeted_weights(goal: Goal) -> None:
    plan = study().upstream(goal, profile=PROFILE).plan
    budget = plan.budget
    share = str(1 - Fraction(budget.limit_params, budget.targeted_params))
    assert budget.amount == goal.amount and 0 < float(Fraction(share)) < 0.6
    ratio = "0.3" if goal.amount == "0.3" else share
    weights = plan.weights.values()
    assert plan.ranks == {w.module: upstream_rank(w.rows, w.columns, ratio) for w in weights}
    assert plan.kept_params <= budget.limit_params


def test_a_plan_and_a_compression_carry_the_same_sizes_out(tmp_path: Path) -> None:
    model = tiny.llama(hidden=32, width=48, layers=1)
    plan = gacfx.plan(
        model, **{k: v for k, v in asked(method="svd-llm").items() if k != "max_loss"}
    )
    made = compress(model, tiny.tokenizer(), **asked(method="svd-llm"))
    assert (
        made.planned.plan.ranks
        == plan.plan.ranks
        == study().upstream("0.2", profile=PROFILE).plan.ranks
    )
    assert plan.plan.provenance.trials == () and is_own(plan.plan)
    assert [side.name for side in made.summary.sides] == ["dense", "own sizes"]
    folder = gacfx.save(made, tmp_path / "small")
    again = Planned.load(folder / "plan").plan
    assert again == made.planned.plan and is_own(again)
    assert "| method | svd-llm, its own sizes, not aligned |" in (folder / "README.md").read_text()
    loaded, _ = gacfx.load(folder)
    ids = torch.arange(2, 40)[None]
    assert loaded(ids).logits.equal(made.model(ids).logits)


def test_a_trial_has_the_same_sizes_and_factors_of_the_fitted_text() -> None:
    tried = study().upstream("0.4", profile=PROFILE, tried=True)
    plain = study().upstream("0.4", profile=PROFILE)
    (trial,) = tried.plan.provenance.trials
    assert (trial.value_model, trial.chosen, trial.promised_nats) == (OWN_VALUE, True, None)
    assert tried.plan.ranks == plain.plan.ranks
    study().fit.measure(study().graph, study().method, "two-sided")
    fitted = {
        name: study().fit.decompositions[name].factors(rank)
        for name, rank in plain.plan.ranks.items()
    }
    with swapped(study().model, fitted):
        expected = evaluate(study().model, study().held_back)
    assert trial.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-6)
    # The plan itself has factors of all text.
    assert study().measure(tried) == study().measure(plain) != trial.nats_per_token


def test_the_line_counts_what_is_aligned() -> None:
    plan = study().upstream("0.2", profile=PROFILE).plan
    good = sum(rank % 8 == 0 for rank in plan.ranks.values())
    said = f"own sizes of svd-llm, not planned: {good} of {len(plan.ranks)} changed dims aligned"
    assert own_line(plan, PROFILE).startswith(said) and 0 < good < len(plan.ranks)
    assert own_line(plan, None) == "own sizes of svd-llm, not planned"
    assert unit_of(plan.provenance.value_model) == NATS
    assert not is_own(study().plan("0.3", profile=PROFILE, search=OWN_RANKS).plan)


def test_own_sizes_above_the_budget_are_refused_with_what_stays_dense() -> None:
    known = study().full.statistics
    name = next(iter(known.moments))
    moments = {**known.moments, name: replace(known.moments[name], grad_square_mean=0.0)}
    full = replace(study().full, statistics=replace(known, moments=moments), decompositions={})
    hurt = replace(study(), full=replace(full, curves={}), measured={})
    plan = hurt.upstream("0.4", profile=PROFILE).plan
    assert plan.kept_params > plan.budget.limit_params
    with pytest.raises(InfeasibleBudget, match=f"more than may remain: {name} and so on stay"):
        check_own(plan)
    with pytest.raises(InfeasibleBudget, match="take sizes 'planned'"):
        hurt.sized("own", "0.4", profile=PROFILE, search=Search())
    assert hurt.sized("planned", "0.4", profile=PROFILE, search=Search()).plan.proof is not None


def test_a_work_folder_keeps_what_was_tried_and_curves_for_plans(tmp_path: Path) -> None:
    work = tmp_path / "work"
    first = calibrated("asvd:tokens=64", work, layers=2)
    one = first.upstream("0.3", profile=PROFILE, tried=True)
    held, curves = first.measure(one), first.curves_of(one.plan)
    first.close()
    again = calibrated("asvd:tokens=64", work, layers=2)

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("it was computed before")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gacfx.upstream.evaluate", never)
        patch.setattr("gacfx.study.token_losses", never)
        other = again.upstream("0.3", profile=PROFILE, tried=True)
    assert other.plan.to_json() == one.plan.to_json()
    assert again.measure(other) == held
    again.close()
    found = load_curves(work / "curves.safetensors")
    assert found.facts == curves.facts and found.curves.keys() == curves.curves.keys()
    assert plan_from_curves(found, ratio="0.3").provenance.value_model == "two-sided"
