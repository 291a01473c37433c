"""Methods with settings and ranks of their own through the doors: plans, files, a fresh process."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.api import Compressed, apply, calibrate, load_profile
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus
from gacfx.compressors.methods import METHODS
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import CalibrationError, InfeasibleBudget, PipelineError
from gacfx.modules.install import swapped
from gacfx.replan import plan_from_curves
from gacfx.study import Study
from tests import tiny
from tests.few import few

PROFILE = load_profile("h200")
SPELLED, NAME = "asvd:scale=abs-max,alpha=0.30,tokens=64", "asvd:alpha=0.3,scale=abs-max,tokens=64"
PAIRS = Search(align=1, form="pair", value="two-sided")


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, 258, (48,), generator=random) for _ in range(8)))


def calibrated(method: str = SPELLED, work: Path | None = None, **more: Any) -> Study:
    model = tiny.llama(hidden=32, width=48)
    return calibrate(model, calibration=corpus(), method=method, force=True, work=work, **more)


@cache
def study() -> Study:
    return calibrated()


def own(method: str, ratio: str = "0.3") -> Planned:
    return study().with_method(method).upstream(ratio, profile=PROFILE)


def test_a_plan_names_its_method_by_the_one_spelling() -> None:
    assert study().method == NAME
    assert study().with_method("asvd:alpha=0.50").method == "asvd"
    assert gacfx.Request(method=SPELLED).method == NAME
    plan = study().plan("0.3", profile=PROFILE, search=PAIRS).plan
    assert plan.provenance.method == NAME
    again = Plan.from_json(plan.to_json())
    assert again == plan and METHODS.find(again.provenance.method).name == NAME


def test_settings_change_the_factors_and_so_the_plan() -> None:
    plain, scaled = (
        study().with_method(method).plan("0.3", profile=PROFILE, search=PAIRS).plan
        for method in ("svd", "asvd:alpha=0")
    )
    assert plain.loss_nats == pytest.approx(scaled.loss_nats, rel=1e-6)
    other = study().plan("0.3", profile=PROFILE, search=PAIRS).plan
    assert other.loss_nats != pytest.approx(plain.loss_nats, rel=1e-3)


@pytest.mark.parametrize("allocation", ["strs", "stable-rank", "uniform"])
@pytest.mark.parametrize("ratio", few(["0.1", "0.45"], "0.45"))
def test_ranks_of_asvd_keep_the_budget(allocation: str, ratio: str) -> None:
    plan = own(f"asvd:tokens=64,allocation={allocation}", ratio).plan
    assert 0 < plan.kept_params <= plan.budget.limit_params
    assert any(each.decision.rank for each in plan.choices)
    assert plan.provenance.value_model == "upstream"


def test_the_table_is_measured_once_and_by_its_own_settings() -> None:
    steps: list[tuple[str, int, int]] = []
    found = calibrated("asvd:tokens=64", progress=lambda *step: steps.append(step))
    one = found.upstream("0.2", profile=PROFILE).plan
    weights = len(one.choices)
    assert [step for step in steps if step[0] == "allocate"][-1] == (
        "allocate",
        6 * weights,
        6 * weights,
    )
    assert len(found.measured) == weights
    before = dict(found.measured)
    other = found.upstream("0.4", profile=PROFILE).plan
    assert found.measured == before and other.kept_params < one.kept_params
    found.with_method("asvd:tokens=64,alpha=0.1").upstream("0.2", profile=PROFILE)
    assert len(found.measured) == 2 * weights


def test_what_asvd_replaces_is_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of the table are those of models with one pair in them."""
    held: list[int] = []

    def spy(model: Any, factors: Any, *rest: Any) -> Any:
        held.append(len(factors))
        return swapped(model, factors, *rest)

    read: list[int] = []

    def count(model: Any, text: Corpus, **more: Any) -> Any:
        read.append(text.tokens)
        return evaluate(model, text, **more)

    monkeypatch.setattr("gacfx.upstream.swapped", spy)
    monkeypatch.setattr("gacfx.upstream.evaluate", count)
    found = calibrated("asvd:tokens=40,alpha=0.7")
    found.upstream("0.2", profile=PROFILE)
    assert {*read} == {48} and found.held_back.tokens == 96  # whole windows, so many at least
    assert {*held} == {1} and len(held) == 6 * len(found.measured)
    assert all(len({*losses}) > 1 for losses in found.measured.values())


def test_below_its_table_asvd_says_what_to_do() -> None:
    with pytest.raises(InfeasibleBudget, match="take allocation=uniform"):
        own("asvd:tokens=64", "0.8")
    assert own("asvd:allocation=uniform", "0.8").plan.kept_params > 0
    assert not own("asvd:tokens=64", "0").plan.decisions


@pytest.mark.parametrize("ratio", few(["0.15", "0.3", "0.6"], "0.3"))
@pytest.mark.parametrize("value", ["two-sided", "relative"])
def test_the_planner_loses_no_more_than_svd_llm_v2_on_the_same_curves(
    ratio: str, value: str
) -> None:
    by = study().with_method("svd-llm-v2")
    theirs = by.upstream(ratio, profile=PROFILE).plan
    assert theirs.kept_params <= theirs.budget.limit_params
    curves = by.curves(value).curves
    lost = sum(curves[name].loss(made) for name, made in theirs.decisions.items())
    search = Search(align=1, form="pair", value=value)
    ours = by.plan(ratio, profile=PROFILE, search=search).plan
    assert ours.proof is not None and ours.proof.status == "optimal"
    assert ours.budget.limit_params == theirs.budget.limit_params
    assert sum(curves[name].loss(made) for name, made in ours.decisions.items()) <= lost
    uniform = study().with_method("svd-llm").upstream(ratio, profile=PROFILE).plan
    assert uniform.ranks != theirs.ranks


def test_a_weight_that_has_no_gradient_stays_dense_and_the_budget_holds() -> None:
    known = study().full.statistics
    name = next(iter(known.moments))
    moments = {**known.moments, name: replace(known.moments[name], grad_square_mean=0.0)}
    full = replace(study().full, statistics=replace(known, moments=moments), decompositions={})
    hurt = replace(study(), full=replace(full, curves={}), measured={})
    for method in ("svd-llm-v2", "asvd:tokens=64"):
        plan = hurt.with_method(method).upstream("0.2", profile=PROFILE).plan
        assert name not in plan.decisions and plan.decisions
        assert plan.kept_params <= plan.budget.limit_params


def test_statistics_of_an_older_folder_are_refused_for_the_largest_inputs_alone() -> None:
    known = study().full.statistics
    moments = {name: replace(one, input_abs_max=None) for name, one in known.moments.items()}
    full = replace(study().full, statistics=replace(known, moments=moments), decompositions={})
    old = replace(study(), full=replace(full, curves={}))
    assert old.with_method("asvd").curves("two-sided").curves
    with pytest.raises(CalibrationError, match="calibrate again in a new work folder"):
        old.with_method(NAME).curves("two-sided")


# -- on disk --------------------------------------------------------------------------------------


def test_a_work_folder_of_a_method_with_settings_is_opened_again(tmp_path: Path) -> None:
    work, search = tmp_path / "work", Search(align=1, form="pair", corrections=1)
    first = calibrated(work=work)
    plan, ranks = (
        first.plan("0.3", profile=PROFILE, search=search),
        first.upstream("0.3", profile=PROFILE),
    )
    first.close()
    names = {path.name for path in work.iterdir()}
    assert {"loss", "divergence", "allocation"} <= {name.partition(".")[0] for name in names}
    assert not [name for name in names if ":" in name or "=" in name or "," in name]
    again = calibrated(work=work)

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("it was computed before")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gacfx.upstream.evaluate", never)
        patch.setattr("gacfx.compressors.lowrank.decompose", never)
        assert again.upstream("0.3", profile=PROFILE).plan.to_json() == ranks.plan.to_json()
        made = again.plan("0.3", profile=PROFILE, search=search)
    assert made.plan.to_json() == plan.plan.to_json()
    other = again.with_method("asvd:alpha=0.3,tokens=64").upstream("0.3", profile=PROFILE)
    assert other.plan.provenance.method != NAME
    again.close()
    assert isinstance(again.full.store, WorkFolder)


def test_saved_curves_are_planned_from_without_the_method_s_package(tmp_path: Path) -> None:
    plan = study().plan("0.3", profile=PROFILE, search=PAIRS).plan
    save_curves(tmp_path / "curves.safetensors", study().curves_of(plan))
    curves = load_curves(tmp_path / "curves.safetensors")
    assert curves.facts.provenance.method == NAME
    assert plan_from_curves(curves, ratio="0.3", search=PAIRS).choices == plan.choices


def test_a_checkpoint_is_read_in_a_process_that_never_saw_the_name(tmp_path: Path) -> None:
    made = study().plan("0.3", profile=PROFILE, search=PAIRS)
    summary: Any = type("Summary", (), {"to_dict": lambda _: {}})()
    folder = gacfx.save(
        Compressed(apply(study().model, made), None, made, summary), tmp_path / "small"
    )
    code = (
        "import sys\nfrom pathlib import Path\nfrom gacfx.core.plan_folder import load_plan\n"
        "from gacfx.compressors.methods import METHODS\n"
        "found = METHODS.find(load_plan(Path(sys.argv[1]))[0].provenance.method)\n"
        "print(found.name, found.alpha, found.scale)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "plan")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{NAME} 0.3 abs-max\n", done.stderr


@pytest.mark.parametrize("method", ["asvd:alpha=2", "asvd:beta=1", "svd:alpha=1"])
def test_a_bad_name_is_refused_before_any_work(method: str) -> None:
    with pytest.raises(PipelineError, match="it has|no settings"):
        gacfx.Request(method=method)
    with pytest.raises(PipelineError, match="it has|no settings"):
        study().with_method(method)


@pytest.mark.parametrize("method", ["magnitude", "random:scope=global,seed=1"])
def test_baselines_of_pruning_have_widths_of_their_own(method: str) -> None:
    found = calibrated(method)
    plan = found.upstream("0.2", profile=PROFILE).plan
    assert plan.kept_params <= plan.budget.limit_params
    assert plan.provenance.method == method
    assert plan.provenance.value_model == f"paper:{METHODS.find(method).proxy}"
    pruned = {each.group.split(".")[2] for each in plan.choices if not each.decision.is_dense}
    assert pruned == {"0", "1"}
