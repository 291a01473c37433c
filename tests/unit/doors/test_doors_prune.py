"""Pruning from text to a folder: planned, proven on the graph, saved, and loaded again."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx import api
from gacfx.calibration.evaluate import Evaluation, evaluate
from gacfx.calibration.text import Corpus
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.pruning import Heads, Skip, Sliced, Width
from gacfx.core.search import Bound, Prune, Search
from gacfx.core.sites import Workload
from gacfx.errors import CheckpointError, PipelineError, PlanError, PlanMismatch
from gacfx.evidence import skip_losses
from gacfx.modules.attention_sizes import MARK
from gacfx.replan import plan_from_curves
from gacfx.study import Study
from gacfx.trials import best_of
from gacfx.verification import verify
from tests import tiny
from tests.few import few

PROFILE = api.load_profile("h200")
STAYS = (Bound("*.mlp", 8), Bound("*.self_attn", 1))
"""A random model loses nothing without its blocks, so that they would all go."""


@cache
def study(method: str = "gfwsvd") -> Study:
    corpus = api.read_calibration(tiny.texts(24), tiny.llama(), tiny.tokenizer())
    return Study.make(tiny.llama(), corpus, method=method, structures=True)


def planned(prune: Prune, ratio: str = "0.4", **asked: Any) -> Planned:
    search = Search(prune=prune, align=8, value="two-sided", bounds=STAYS)
    return study().plan(ratio, profile=PROFILE, search=replace(search, **asked))


def ids() -> torch.Tensor:
    return torch.arange(3, 24)[None]


@pytest.mark.parametrize("prune", few(["only", "either", "both"], "both"))
@torch.no_grad()
def test_a_pruned_model_is_proven_saved_and_loaded(prune: Prune, tmp_path: Path) -> None:
    made = planned(prune)
    kinds = {type(choice.decision) for choice in made.plan.choices}
    assert kinds & {Width, Heads} and Skip not in kinds
    assert made.plan.kept_params <= made.plan.budget.limit_params
    verify(study(), made, PROFILE, Workload(1, 64))
    made.save(tmp_path / "plan")
    again = Planned.load(tmp_path / "plan")
    assert again.plan == made.plan
    model = gacfx.apply(tiny.llama(), again)
    total = sum(p.numel() for p in model.parameters()) - made.plan.kept_params
    dense = sum(p.numel() for p in tiny.llama().parameters()) - made.plan.budget.targeted_params
    assert total == dense
    model.save_pretrained(tmp_path / "model")
    loaded, _ = gacfx.load(tmp_path / "model")
    assert torch.equal(loaded(ids()).logits, model(ids()).logits)
    with_cache = loaded.generate(ids(), max_new_tokens=8, do_sample=False)
    without = model.generate(ids(), max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(with_cache, without)


@torch.no_grad()
def test_the_units_that_stay_take_over(tmp_path: Path) -> None:
    made = planned("only", bounds=(Bound("*.mlp", 8), Bound("*.self_attn", 2)))
    name = next(c.group for c in made.plan.choices if isinstance(c.decision, Width))
    choice = next(c for c in made.plan.choices if c.group == name)
    assert isinstance(choice.decision, Width)
    kept = list(choice.decision.kept)
    dense = tiny.llama().get_submodule(name)
    factors = made.factors
    gate = factors[f"{name}.gate_proj"].tensors["weight"]
    assert torch.equal(gate, dense.gate_proj.weight[kept])
    down = factors[f"{name}.down_proj"].tensors["weight"]
    moments = study().full.statistics.moments[f"{name}.down_proj"]
    a = moments.input_moment
    weight = dense.down_proj.weight.double()
    refit = torch.linalg.solve(a[kept][:, kept], a[kept] @ weight.T).T
    assert (down.double() - refit).norm() / refit.norm() < 1e-4


def test_every_weight_of_a_structure_has_its_part() -> None:
    made = planned("both", "0.5")
    for choice in made.plan.choices:
        if len(choice.weights) == 1:
            continue
        for module, part in choice.decisions.items():
            assert part.is_dense or made.factors[module].decision == part
            smaller = isinstance(part, Sliced)
            whole = choice.group.endswith("attn") and module[-6] in "kv"
            assert smaller or whole  # where only query heads go


def test_curves_of_a_study_are_the_plan_again(tmp_path: Path) -> None:
    made = planned("both")
    save_curves(tmp_path / "curves.safetensors", study().curves_of(made.plan))
    curves = load_curves(tmp_path / "curves.safetensors")
    search = made.plan.provenance.search
    again = plan_from_curves(curves, ratio="0.4", gpu="h200", search=search)
    assert again.choices == made.plan.choices and again.digests == made.plan.digests


def test_menus_are_compared_on_held_back_text() -> None:
    made = planned("auto", value="auto")
    trials = made.plan.provenance.trials
    assert {(t.value_model, t.prune) for t in trials} == {
        ("two-sided", menu) for menu in ("either", "both", "cautious", "none")
    }
    losses = [t.nats_per_token or 9e9 for t in trials]
    best = trials[best_of(losses, Search(prune="auto"))]
    assert best.chosen and made.plan.provenance.search.prune == best.prune


def test_a_block_that_costs_least_goes_first() -> None:
    made = planned("only", "0.6", bounds=())
    skips = study().skips
    assert set(skips) == {f"model.layers.{i}.{b}" for i in (0, 1) for b in ("self_attn", "mlp")}
    gone = {c.group: c.loss_nats for c in made.plan.choices if isinstance(c.decision, Skip)}
    assert gone and all(skips[name] == loss for name, loss in gone.items())
    verify(study(), made, PROFILE, Workload(1, 64))


@torch.no_grad()
def test_a_whole_layer_may_go_and_generation_goes_on(tmp_path: Path) -> None:
    made = planned("only", "0.95", bounds=())
    assert made.plan.kept_params <= 0.05 * made.plan.budget.targeted_params
    model = gacfx.apply(tiny.llama(), made)
    assert len(made.plan.blocks) == 4
    out = [
        model.generate(ids(), max_new_tokens=6, do_sample=False, use_cache=flag)
        for flag in (True, False)
    ]
    assert torch.equal(*out)


def test_uniform_sizes_are_one_for_all_layers() -> None:
    made = planned("only", "0.3", uniform=True)
    for end in ("mlp", "self_attn"):
        labels = {
            str(c.decision.label) if len(c.weights) > 1 else "dense"
            for c in made.plan.choices
            if f".{end}" in c.group
        }
        assert len(labels) == 1


def test_a_study_without_structures_says_how_to_make_one() -> None:
    bare = Study.make(tiny.llama(), study().held_back)
    with pytest.raises(PlanError, match=r"Study.make\(..., structures=True\)"):
        bare.plan("0.2", profile=PROFILE, search=Search(prune="both"))


def test_a_value_that_says_nothing_of_pruning_is_refused() -> None:
    with pytest.raises(PipelineError, match="says nothing of what pruning costs"):
        planned("both", value="relative")


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(PlanMismatch):
        gacfx.apply(tiny.llama(width=184), planned("only"))


def test_blocks_that_cost_least_are_measured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gacfx.evidence.PROBED", 1)
    statistics, model = study().full.statistics, tiny.llama()
    found = skip_losses(model, study().structures, statistics, study().held_back)
    forecast = {}
    for each in study().structures:
        moments = statistics.moments[each.closing.module]
        weight = model.get_submodule(each.closing.module).weight.detach().double()
        error = weight @ moments.input_moment @ weight.T
        forecast[each.name] = float((moments.grad_moment * error).sum()) / 2
    assert list(found) == [min(forecast, key=lambda name: forecast[name])]


def test_a_rise_is_measured_on_one_text_with_and_without_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = list[str]()

    def seen(model: Any, text: Corpus) -> Evaluation:
        read.append(text.digest)
        return evaluate(model, text)

    monkeypatch.setattr("gacfx.evidence.PROBE_TOKENS", 40)
    monkeypatch.setattr("gacfx.evidence.evaluate", seen)
    held_back = study().held_back
    skip_losses(tiny.llama(), study().structures, study().full.statistics, held_back)
    assert len(read) > 1 and {*read} == {held_back.sample(40).digest} != {held_back.digest}


def test_blocks_that_must_stay_are_not_probed() -> None:
    first, second, *_ = study().structures
    kept = replace(first, keeps_block="another layer reads it")
    known = study().full.statistics, study().held_back
    assert [*skip_losses(tiny.llama(), (kept, second), *known)] == [second.name]


def forged(made: Planned, **changes: Any) -> Planned:
    """The plan with another decision for the first MLP that is narrower."""
    choice = next(c for c in made.plan.choices if isinstance(c.decision, Width))
    new = replace(choice, decision=replace(choice.decision, **changes))  # type: ignore[type-var]
    others = tuple(new if each is choice else each for each in made.plan.choices)
    return replace(made, plan=replace(made.plan, choices=others))


def test_parts_that_do_not_fit_are_refused_before_anything_is_changed() -> None:
    made = planned("only")
    width = next(c.decision for c in made.plan.choices if isinstance(c.decision, Width))
    gate, up, down = width.parts
    assert isinstance(down, Sliced)
    narrow = replace(down, inputs=down.inputs - 8)
    model = tiny.llama()
    layers = [*model.modules()]
    for odd, message in (
        (forged(made, kept=(*width.kept[:-1], 999)), "the last one number 999"),
        (forged(made, kept=width.kept[:-8]), "and the weight that reads them keeps"),
        (forged(made, parts=(gate, up, narrow)), "and the weight that reads them keeps"),
        (replace(made, factors={}), "is in the plan but not in the factors"),
    ):
        with pytest.raises(PlanError, match=message):
            gacfx.apply_(model, odd)
        assert [*model.modules()] == layers
    text = forged(made, kept=(*width.kept[:-1], 999)).plan.to_json()
    with pytest.raises(PlanError, match="mlp: it keeps .* the last one number 999"):
        Plan.from_json(text)


def test_a_structure_of_which_a_weight_is_skipped_says_so() -> None:
    name = "model.layers.0.mlp"
    made = Study.make(
        tiny.llama(), study().held_back, skip=(f"{name}.gate_proj",), structures=True
    ).plan("0.3", profile=PROFILE, search=Search(prune="only", align=8, value="two-sided"))
    assert made.plan.unpruned == {name: f"{name}.gate_proj is left out of the plan"}
    assert not any(module.startswith(name) for module in made.factors)


def test_a_model_whose_attentions_are_not_as_planned_is_not_saved(tmp_path: Path) -> None:
    made = planned("only")
    model = gacfx.apply(tiny.llama(), made)
    name = next(iter(made.plan.blocks))
    del vars(model.get_submodule(name))[MARK]
    with pytest.raises(CheckpointError, match=f"{name}: dense in the model, heads .* in the plan"):
        save_checkpoint(model, None, tmp_path / "x", plan=made.plan, factors=made.factors)


def odd_attention() -> Any:
    """Attentions whose weights could lose heads, and whose code cannot follow: q has a gate."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    config = Qwen3NextConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        layer_types=["full_attention", "full_attention"],
        num_experts=0,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3NextForCausalLM(config).eval()


def test_heads_that_the_code_of_a_module_needs_stay() -> None:
    search = Search(prune="only", align=8, value="two-sided", bounds=(Bound("*.mlp", 8),))
    made = gacfx.compress(
        odd_attention(),
        tiny.tokenizer(),
        calibration=tiny.texts(24),
        ratio=0.1,
        search=search,
        force=True,
    )
    assert any(isinstance(choice.decision, Width) for choice in made.planned.plan.choices)
    assert not any(isinstance(choice.decision, Heads) for choice in made.planned.plan.choices)
    reasons = [said for name, said in made.planned.plan.unpruned.items() if "attn" in name]
    assert len(reasons) == 2 and all("its code expects" in said for said in reasons)


@pytest.mark.parametrize("kind", ["gpt_neo", "smollm3"])
@torch.no_grad()
def test_heads_go_where_other_numbers_of_an_attention_have_nothing_to_do_with_them(
    kind: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    more: dict[str, dict[str, Any]] = {
        "gpt_neo": {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 96,
        },
        "smollm3": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
        },
    }
    config = AutoConfig.for_model(
        kind, vocab_size=258, bos_token_id=0, eos_token_id=1, **more[kind]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    search = Search(prune="only", align=8, value="two-sided")
    made = gacfx.compress(
        model, tiny.tokenizer(), calibration=tiny.texts(24), ratio=0.3, search=search, force=True
    )
    gacfx.save(made, tmp_path / "out")
    loaded, _ = gacfx.load(tmp_path / "out")
    assert torch.equal(loaded(ids()).logits, made.model(ids()).logits)
