"""Basis Sharing through the doors: own ranks, plans, graph and module, folders, explanations."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.api import Compressed, apply, calibrate, load_profile, summarise, verify
from gacfx.calibration.text import Corpus
from gacfx.compressors.allocate import upstream_rank
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.plan import Choice
from gacfx.core.planned import Planned
from gacfx.core.search import Bound, Search
from gacfx.core.shared_basis import SharedBasis, basis_group
from gacfx.core.sites import Workload
from gacfx.errors import HealingError, PassError, PipelineError, PlanError
from gacfx.explain import explain
from gacfx.healing.adapters import LoraLearner
from gacfx.healing.trainable import trained_names
from gacfx.replan import plan_from_curves, problem_of
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
METHOD = "basis-sharing"
SHARED = Search(align=2, form="shared-basis", value="two-sided")
ANY = replace(SHARED, align=1)
PAIRS = Search(align=1, form="pair", value="two-sided")
SEVEN = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, 258, (48,), generator=random) for _ in range(8)))


def calibrated(method: str = METHOD, **more: Any) -> Study:
    model = tiny.llama(hidden=32, width=48, layers=3)
    return calibrate(model, calibration=corpus(), method=method, force=True, **more)


@cache
def study() -> Study:
    return calibrated()


@cache
def own() -> Planned:
    return study().upstream("0.3", profile=PROFILE)


@cache
def planned() -> Planned:
    return study().plan("0.3", profile=PROFILE, search=SHARED)


def shared(made: Planned) -> dict[str, Choice]:
    found = {choice.group: choice for choice in made.plan.choices}
    return {name: one for name, one in found.items() if isinstance(one.decision, SharedBasis)}


def test_its_own_ranks_are_those_of_the_stacked_weights() -> None:
    groups = shared(own())
    names = [[f"model.layers.{layer}.{name}" for layer in range(2)] for name in SEVEN]
    assert sorted(groups) == sorted(map(basis_group, names))
    for choice in groups.values():
        first, second = choice.weights
        assert first.rows == second.rows and len(choice.weights) == 2
        assert choice.rank == upstream_rank(2 * first.rows, first.columns, "0.3")
        assert choice.loss_nats > 0
    assert own().plan.kept_params <= own().plan.budget.limit_params
    alone = [m for m, d in own().plan.decisions.items() if not isinstance(d, SharedBasis)]
    assert {m.rpartition(".")[2] for m in alone if ".2." not in m} == {"o_proj", "down_proj"}


def test_the_best_plan_promises_less_than_its_own_ranks() -> None:
    best = study().plan("0.3", profile=PROFILE, search=PAIRS)
    assert best.plan.loss_nats <= own().plan.loss_nats
    assert best.plan.kept_params <= best.plan.budget.limit_params
    assert best.plan.proof is not None and best.plan.proof.status == "optimal"


def test_ranks_stay_tied_after_planning() -> None:
    groups = shared(planned())
    assert groups
    for choice in groups.values():
        parts = list(choice.decisions.values())
        assert {part.rank for part in parts} == {choice.rank}
        assert [part.back for part in parts if isinstance(part, SharedBasis)] == [0, 1]
        assert choice.rank is not None and choice.rank % 2 == 0
        down = planned().factors[choice.weights[0].module].tensors["down"]
        assert len(down) == choice.rank


def test_graph_and_module_agree_and_checks_pass() -> None:
    seen = verify(study(), planned(), PROFILE, Workload())
    assert any("down" in row.name for row in seen.folded())
    summary = summarise(study(), {"gacfx": planned()}, PROFILE, Workload())
    made = apply(study().model, planned())
    graph = apply(study().graph, planned())
    params = sum(p.numel() for p in made.parameters())
    assert params == sum(p.numel() for p in graph.parameters())
    budget = planned().plan.budget
    assert params == budget.model_params - budget.targeted_params + planned().plan.kept_params
    assert [side.name for side in summary.sides] == ["dense", "gacfx"]


def test_a_folder_comes_back_with_one_basis(tmp_path: Path) -> None:
    summary = summarise(study(), {"gacfx": planned()}, PROFILE, Workload())
    made = apply(study().model, planned())
    gacfx.save(Compressed(made, None, planned(), summary), tmp_path / "small")
    again, _ = gacfx.load(tmp_path / "small")
    ids = torch.arange(2, 40)[None]
    assert torch.equal(again(ids).logits, made(ids).logits)
    there = Planned.load(tmp_path / "small" / "plan")
    assert there.plan == planned().plan
    stored = sum(t.numel() for f in there.factors.values() for t in f.tensors.values())
    shapes = planned().plan.weights
    assert stored == sum(
        d.params(shapes[m].rows, shapes[m].columns) for m, d in planned().plan.decisions.items()
    )


def test_from_saved_curves_the_plan_is_the_same(tmp_path: Path) -> None:
    save_curves(tmp_path / "curves", study().curves_of(planned().plan))
    found = plan_from_curves(load_curves(tmp_path / "curves"), ratio="0.3", search=SHARED)
    assert found.choices == planned().plan.choices
    problem, case = problem_of(load_curves(tmp_path / "curves"), search=SHARED)
    assert {group.name for group in problem.groups} >= shared(planned()).keys()
    assert len(problem.groups) == len(case.curves)


def test_weights_alone_say_why() -> None:
    lacks = {c.group: c.lacks for c in planned().plan.choices}
    assert "no further weight" in lacks["model.layers.2.mlp.up_proj"]["shared-basis"]
    assert lacks["model.layers.0.self_attn.o_proj"] == {}


def test_a_member_that_is_skipped_leaves_its_neighbour_alone() -> None:
    made = calibrated(skip=("*.0.*.q_proj",)).upstream("0.3", profile=PROFILE)
    choices = {choice.group: choice for choice in made.plan.choices}
    lone = choices["model.layers.1.self_attn.q_proj"]
    assert lone.decision.kind == "low-rank"
    assert basis_group(["model.layers.0.self_attn.k_proj"] * 2) in choices


def test_layers_1_is_svd_llm() -> None:
    one, other = (
        study().with_method(name).plan("0.3", profile=PROFILE, search=PAIRS)
        for name in ("basis-sharing:layers=1", "svd-llm")
    )
    assert one.plan.decisions == other.plan.decisions
    assert one.plan.loss_nats == other.plan.loss_nats


def test_uniform_ties_groups_of_a_type() -> None:
    found = study().with_method("basis-sharing:layers=1")
    assert found.plan("0.3", profile=PROFILE, search=PAIRS).plan.choices
    tied = replace(ANY, uniform=True)
    assert shared(study().plan("0.3", profile=PROFILE, search=tied))


def test_bounds_and_windows() -> None:
    bound = replace(ANY, bounds=(Bound("*.[01].*.q_proj*", 3, 5),))
    choice = shared(study().plan("0.2", profile=PROFILE, search=bound))
    ranks = [c.rank for name, c in choice.items() if "q_proj" in name]
    assert ranks and all(rank is not None and 3 <= rank <= 5 for rank in ranks)
    near = Search(align=1, form="pair", value="two-sided", candidates="window", window=5)
    for one in shared(study().plan("0.3", profile=PROFILE, search=near)).values():
        assert one.wanted is not None and one.rank is not None and abs(one.rank - one.wanted) <= 5


def test_an_explanation_of_a_group() -> None:
    name, choice = next(iter(shared(planned()).items()))
    seen = explain(planned().plan, study().curves_of(planned().plan), choice.weights[1].module)
    assert seen.module == name and seen.params == choice.params
    assert any("decided with" in note for note in seen.notes)


def test_what_is_refused() -> None:
    with pytest.raises(PlanError, match="needs what this study did not gather"):
        calibrated("svd-llm").with_method(METHOD)
    with pytest.raises(PipelineError, match="several layers at once"):
        gacfx.Request(method=METHOD, search=Search(prune="both"))
    nothing = replace(ANY, bounds=(Bound("*.0.*.q_proj", 1000, 2000),))
    with pytest.raises(PassError, match="no candidate is left"):
        study().plan("0.3", profile=PROFILE, search=nothing)


def test_a_work_folder_gives_the_same_plan(tmp_path: Path) -> None:
    found = calibrated(work=tmp_path / "work")
    made = found.plan("0.3", profile=PROFILE, search=SHARED)
    assert made.plan.decisions == planned().plan.decisions
    for module, one in planned().factors.items():
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(made.factors[module].tensors[name], tensor)
    found.close()


def test_a_work_folder_of_another_method_that_lacks_moments_is_refused(tmp_path: Path) -> None:
    calibrated("svd-llm", work=tmp_path / "work").close()
    with pytest.raises(PlanError, match="which this work folder was filled without"):
        calibrated(work=tmp_path / "work")


def test_a_basis_learns_once_in_a_healing() -> None:
    model = apply(study().model, planned())
    names = trained_names(model)
    bases = {f"{one.weights[0].module}.down.weight" for one in shared(planned()).values()}
    others = {f"{one.weights[1].module}.down.weight" for one in shared(planned()).values()}
    assert bases and bases <= {*names} and not others & {*names}
    with pytest.raises(HealingError, match="shares its basis with another layer"):
        LoraLearner(model, names, 2, 0)


@pytest.mark.parametrize("solver", ["greedy", "round"])
def test_rules_of_thumb_know_no_groups(solver: Any) -> None:
    with pytest.raises(PipelineError, match="take solver 'core'"):
        gacfx.Request(method=METHOD, search=Search(solver=solver, form="pair"))
    gacfx.Request(method=f"{METHOD}:layers=1", search=Search(solver=solver, form="pair"))
