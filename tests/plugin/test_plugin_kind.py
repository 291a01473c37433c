"""A kind of decision from outside goes from its tensors to graph, module, checkpoint and back."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gacfx.allocation.latency import Clock
from gacfx.applying import apply, apply_to_graph
from gacfx.checkpoint.load import load_checkpoint
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core import table
from gacfx.core.kinds import KINDS, read_decision
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.sites import Workload
from gacfx.errors import CheckpointError
from gacfx.graph.notes import matmuls, note
from gacfx.hardware.profile import load_profile
from gacfx.inspection import annotate_graph
from gacfx.modules.install import compressed_modules
from gacfx.modules.make import carrier_names
from gacfx.passes.verify.check_budget import weight_params
from gacfx.tracing.export import export_model
from tests.passes.graphs import annotated
from tests.plugin.toy_kind import KIND, forget, installed
from tests.unit.checkpoint.tiny_models import factors_for, llama, plan_for, qwen2, token_ids

Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "site"
    folder.mkdir()
    with installed(folder, monkeypatch) as module:
        yield module


def made(toy: ModuleType) -> tuple[Any, Planned]:
    """A dense model, and a plan of toys for two of its layers."""
    torch.manual_seed(0)
    model = qwen2()
    factors = factors_for(model, ("q_proj",), kind=toy.Scaled)
    return model, Planned(plan_for(model, factors), factors)


def test_it_is_found_by_its_entry_point(toy: ModuleType) -> None:
    assert KIND not in KINDS
    assert read_decision({"kind": KIND, "rank": 3}) == toy.Scaled(3)
    assert KINDS[KIND] is toy.KIND
    assert "ScaledLinear" in carrier_names()


def test_its_plan_and_tensors_come_back(toy: ModuleType, tmp_path: Path) -> None:
    _, planned = made(toy)
    assert Plan.from_json(planned.plan.to_json()) == planned.plan
    planned.save(tmp_path / "plan")
    again = Planned.load(tmp_path / "plan")
    for module, factors in planned.factors.items():
        assert again.factors[module].decision == factors.decision == planned.plan.decisions[module]
        for name, tensor in factors.tensors.items():
            assert torch.equal(again.factors[module].tensors[name], tensor)


def test_graph_and_module_agree_to_the_last_bit(toy: ModuleType) -> None:
    model, planned = made(toy)
    gm = apply_to_graph(export_model(model), planned)
    module = apply(model, planned)
    assert [type(layer).__name__ for layer in compressed_modules(module).values()] == [
        "ScaledLinear",
        "ScaledLinear",
    ]
    inputs = {"input_ids": token_ids(3, 17), "use_cache": False}
    graphs = [graph(**inputs)[0] for graph in (gm, export_model(module))]
    assert (graphs[0] - graphs[1]).abs().max() == 0.0
    assert not torch.allclose(graphs[0], model(**inputs)[0])
    assert weight_params(gm, Q0) == toy.Scaled(9).params(48, 48)
    reasons = {site.name: note(node).refusals for node, site in matmuls(annotated(gm))}
    assert [r.reason for r in reasons[f"{Q0}.inner"]] == ["already factorized"]


def test_its_copies_are_forecast_as_they_are_planned(toy: ModuleType) -> None:
    model, planned = made(toy)
    dense, profile = annotated(export_model(model)), load_profile("h200")
    weight = next(site for _, site in matmuls(dense) if site.name == Q0)
    graphs = [apply_to_graph(export_model(model), planned), export_model(apply(model, planned))]
    for gm, run in product(graphs, (Workload(4, 512), Workload(4, 512, "decode"))):
        rows = [row for row in annotate_graph(gm, profile, run, "toy").rows if Q0 in row.name]
        assert [row.name for row in rows] == [f"{Q0}.inner", Q0, f"{Q0}.outer"]
        assert (rows[1].kernel, rows[1].reason) == ("copy", "mul")
        ns = Clock(profile, run).ns(weight, toy.Scaled(9))
        assert 1000 * sum(row.latency_us for row in rows) == pytest.approx(ns, abs=1.5)


def test_its_checkpoint_loads_bit_by_bit_and_only_with_it(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, planned = made(toy)
    module = apply(model, planned)
    out = tmp_path / "model"
    save_checkpoint(module, None, out, plan=planned.plan, factors=planned.factors)
    assert (
        "2 of 2 targeted weights are compressed (2 toy-scaled)" in (out / "README.md").read_text()
    )
    forget()
    for loaded in (load_checkpoint(out), AutoModelForCausalLM.from_pretrained(out)):
        assert torch.equal(loaded(token_ids()).logits, module(token_ids()).logits)
        loaded.save_pretrained(tmp_path / "again")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
        assert torch.equal(again(token_ids()).logits, module(token_ids()).logits)
    forget()
    monkeypatch.setattr(table, "entry_points", lambda **_: ())  # uninstalled
    for load in (load_checkpoint, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match=f"no kind of decision '{KIND}'; .* written by"):
            load(out)


def test_dense_models_do_not_ask_for_it(toy: ModuleType) -> None:
    model = llama()
    assert not compressed_modules(model)
    assert KIND not in KINDS
