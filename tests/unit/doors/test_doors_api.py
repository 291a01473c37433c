"""The Python door: plan, apply, compress, save, load, and plans that do not fit."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import gacfx
from gacfx import api
from gacfx.compressors.values import TRIED
from gacfx.core.goal import Goal
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.errors import CalibrationError, PlanMismatch, UnsupportedModel
from gacfx.hardware.profile import load
from gacfx.modules.install import compressed_modules
from gacfx.tracing.inputs import example_inputs
from tests import tiny


@pytest.fixture(scope="module")
def planned() -> Planned:
    return gacfx.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.3")


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(34).reshape(2, 17)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False)[0]
    return found


def test_planning_leaves_the_model_as_it_was(planned: Planned) -> None:
    model = tiny.llama()
    before = {n: p.clone() for n, p in model.named_parameters()}
    gacfx.plan(model, tiny.tokenizer(), calibration=tiny.texts(), search=Search(value="fisher"))
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) and after[n].grad is None for n in before)


def test_same_input_gives_the_same_plan(planned: Planned) -> None:
    again = gacfx.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.3")
    assert again.plan.choices == planned.plan.choices
    assert all(
        torch.equal(again.factors[module].tensors[name], tensor)
        for module, factors in planned.factors.items()
        for name, tensor in factors.tensors.items()
    )


def test_a_model_calibrated_once_gives_the_plans_and_holds_their_curves(planned: Planned) -> None:
    study = api.calibrate(
        tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), skip=("*.o_proj",), seed=3
    )
    assert study.full.statistics.seed == 3
    one, two = (study.plan(ratio, profile=load("h200")).plan for ratio in ("0.2", "0.3"))
    assert one.kept_params > two.kept_params
    assert len(one.choices) == len(planned.plan.choices) - 2  # o_proj of both layers
    assert len(study.curves_of(two).facts.weights) == len(two.choices)


def test_apply_copies_and_apply_in_place_does_not(planned: Planned) -> None:
    model = tiny.llama()
    before = logits(model)
    made = gacfx.apply(model, planned)
    assert torch.equal(logits(model), before)
    gacfx.apply_(model, planned)
    assert torch.equal(logits(model), logits(made))
    assert {*compressed_modules(model)} == {*planned.plan.decisions}


def test_apply_on_a_graph_equals_apply_on_the_module(planned: Planned) -> None:
    model = tiny.llama()
    graph = gacfx.capture(model)
    rewritten = gacfx.apply(graph, planned)
    assert isinstance(rewritten, GraphModule)
    again = gacfx.capture(gacfx.apply(model, planned))
    inputs = example_inputs(model)
    inputs["input_ids"] = torch.randint(0, 258, (3, 17))
    with torch.no_grad():
        assert torch.equal(rewritten(**inputs)[0], again(**inputs)[0])


def test_plan_folder_round_trip(planned: Planned, tmp_path: Path) -> None:
    planned.save(tmp_path)
    model = tiny.llama()
    gacfx.apply_(model, tmp_path)
    assert torch.equal(logits(model), logits(gacfx.apply(tiny.llama(), planned)))


def test_plan_of_another_model_is_refused(planned: Planned) -> None:
    with pytest.raises(PlanMismatch):
        gacfx.apply_(tiny.llama(layers=3), planned)


def test_plan_of_other_weights_is_refused_and_changes_nothing(planned: Planned) -> None:
    model = tiny.llama(seed=1)
    before = logits(model)
    with pytest.raises(PlanMismatch):
        gacfx.apply_(model, planned)
    assert torch.equal(logits(model), before)


def test_plan_of_other_weights_is_refused_on_a_graph_too(planned: Planned) -> None:
    with pytest.raises(PlanMismatch):
        gacfx.apply(gacfx.capture(tiny.llama(seed=1)), planned)


def test_save_and_load_generate_the_same_tokens(tmp_path: Path) -> None:
    made = gacfx.compress(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    folder = gacfx.save(made, tmp_path / "out")
    model, tokenizer = gacfx.load(folder)
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    mask = torch.ones_like(ids)
    ours = made.model.generate(ids, attention_mask=mask, **settings)
    theirs = model.generate(ids, attention_mask=mask, use_cache=True, **settings)
    assert torch.equal(ours, theirs)


def test_losses_of_all_trials_are_kept_and_the_best_is_chosen(planned: Planned) -> None:
    trials = planned.plan.provenance.trials
    assert {t.value_model for t in trials} == {*TRIED}
    best = min(trials, key=lambda t: inf if t.nats_per_token is None else t.nats_per_token)
    assert [t for t in trials if t.chosen] == [best]
    assert planned.plan.provenance.value_model == best.value_model


def test_weight_without_finite_statistics_stays_dense_with_a_reason() -> None:
    from gacfx.api import load_profile, read_calibration
    from gacfx.evidence import Evidence
    from gacfx.study import Study

    model = tiny.llama()
    corpus = read_calibration(tiny.texts(), model, tiny.tokenizer())
    study = Study.make(model, corpus)
    name = "model.layers.0.mlp.up_proj"
    known = study.full.statistics
    bad = known.moments[name]
    spoiled = replace(bad, side_moment=bad.side_moment * float("nan"))
    full = Evidence(replace(known, moments={**known.moments, name: spoiled}))
    profile = load_profile("h200")
    search = Search(value="two-sided")
    planned = replace(study, full=full).plan("0.2", profile=profile, search=search)
    choice = next(c for c in planned.plan.choices if c.group == name)
    assert choice.rank is None
    assert "NaN" in choice.reason
    assert planned.plan.kept_params <= planned.plan.budget.limit_params


def test_ratio_of_the_model_counts_everything_but_removes_from_the_targets() -> None:
    planned = gacfx.plan(
        tiny.llama(),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        goal=Goal(ratio="0.2", of="model"),
        search=Search(value="fisher"),
    )
    budget = planned.plan.budget
    outside = budget.model_params - budget.targeted_params
    assert planned.plan.kept_params + outside <= 0.8 * budget.model_params


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(CalibrationError, match="tokenizer"):
        gacfx.plan(tiny.llama(), calibration=tiny.texts())


def test_nothing_to_compress_is_refused_with_the_reasons() -> None:
    with pytest.raises(UnsupportedModel, match="skip"):
        gacfx.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), skip=("*",))


def test_ratio_zero_keeps_every_weight_dense() -> None:
    planned = gacfx.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0")
    assert planned.plan.decisions == {}


def test_requests_that_cannot_work_fail_before_calibration() -> None:
    unreadable: Any = "no such file.txt"
    requests: dict[str, dict[str, Any]] = {
        "magic": {"method": "magic"},
        "ratio 20": {"ratio": 20},
        "both given": {"ratio": 0.2, "goal": Goal(params="5k")},
        "no pass 'limit-fun'": {"search": Search(limits=("limit-fun",))},
        "no option 'pace'": {"search": Search(limits=("limit-latency{pace=2}",))},
        "share -1.0 is not a finite number above 0": {
            "search": Search(limits=("limit-latency{share=-1}",))
        },
    }
    for message, wrong in requests.items():
        with pytest.raises(gacfx.GacError, match=message):
            gacfx.plan(tiny.llama(), tiny.tokenizer(), calibration=unreadable, **wrong)


def test_model_in_training_mode_is_refused() -> None:
    model = tiny.llama().train()
    with pytest.raises(UnsupportedModel, match="eval"):
        gacfx.plan(model, tiny.tokenizer(), calibration=tiny.texts())
