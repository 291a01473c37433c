"""Every family: captured as one graph, sites annotated, eager attention calls as they are."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.sites import AttentionSite, Extent, Layout, MatmulSite, Workload
from gacfx.errors import CaptureError, CheckpointError, UnsupportedModel
from gacfx.graph.layers import in_layer, layers_of
from gacfx.graph.notes import matmuls, note, sites
from gacfx.graph.pipeline import Pipeline
from gacfx.graph.rows import fold, read_rows
from gacfx.hardware.profile import load
from gacfx.tracing.attention import _spy
from gacfx.tracing.export import export_model
from gacfx.tracing.inputs import example_inputs
from gacfx.tracing.skeleton import known_configs, read_config, skeleton
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few

WORKLOAD = Workload(batch=2, seq=13)


@cache
def graph(name: str) -> GraphModule:
    """The annotated graph of a family; captured once."""
    gm = export_model(FAMILIES[name].make(), attention_seq=13)
    analyse = Pipeline.parse(pipelines.ANALYSE)
    analyse.bind(profile=load("h200"), workload=WORKLOAD).run(gm)
    return gm


def matmul_of(gm: GraphModule, name: str) -> MatmulSite:
    """The matmul whose name ends so."""
    return next(site for _, site in matmuls(gm) if site.name.endswith(name))


@pytest.mark.parametrize("name", few(FAMILIES, *CORNERS))
def test_graph_computes_what_the_model_computes(name: str) -> None:
    model = FAMILIES[name].make()
    inputs = FAMILIES[name].export_kwargs(3, 17)
    with torch.no_grad():
        got, want = export_model(model, inputs)(**inputs)[0], model(**inputs)[0]
    assert torch.linalg.vector_norm(got - want) <= 1e-5 * torch.linalg.vector_norm(want)


@pytest.mark.parametrize("name", few(FAMILIES, *CORNERS))
def test_every_site_has_a_tier_and_a_latency(name: str) -> None:
    rows = read_rows(graph(name), WORKLOAD)
    assert any(r.kernel for r in rows)
    assert all(r.tier in (1, 2, 3, 4) and r.latency_us > 0 for r in rows)


@pytest.mark.parametrize("name", few(FAMILIES, *CORNERS))
def test_recorded_attention_calls_are_those_of_the_real_model(name: str) -> None:
    model = FAMILIES[name].make()
    with torch.no_grad(), _spy() as calls:
        model(**example_inputs(model, 1, 13))
    recorded = [s.eager for _, s in sites(graph(name)) if isinstance(s, AttentionSite)]
    assert recorded == calls
    assert recorded


@pytest.mark.parametrize("name", few(FAMILIES, *CORNERS))
def test_no_attention_site_fell_back_to_the_graph(name: str) -> None:
    for node, site in sites(graph(name)):
        if isinstance(site, AttentionSite):
            assert note(node).refusals == ()


def test_matmul_flops_of_a_forward_equal_those_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = FAMILIES["llama"].make()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**example_inputs(model, WORKLOAD.batch, WORKLOAD.seq))
    # torch counts attention on a CPU from 2.15 on only, so the comparison is over matmuls.
    counts = counter.get_flop_counts()["Global"]
    theirs = sum(flops for op, flops in counts.items() if "attention" not in str(op))
    ours = sum(s.flops(WORKLOAD) for _, s in matmuls(graph("llama")))
    # Some versions of transformers make rotary angles by an outer product, which is no site.
    assert 0 <= theirs - ours < 1e-3 * ours


def test_rows_of_a_decode_step_are_one_for_each_sequence() -> None:
    site = matmul_of(graph("llama"), "layers.0.mlp.up_proj")
    assert site.m == Extent(1, "token")
    assert site.sizes(Workload(batch=8, seq=4096, mode="decode")) == (8, 48, 88)


def test_grouped_query_attention_keeps_the_stored_heads() -> None:
    site = next(s for _, s in sites(graph("llama")) if isinstance(s, AttentionSite))
    assert (site.heads_q, site.heads_kv, site.d_qk, site.d_v) == (6, 2, 8, 8)
    assert site.compiled.mask and not site.compiled.gqa
    assert site.eager.causal and site.eager.gqa and not site.eager.mask


def test_sliding_window_below_the_length_calls_attention_with_a_mask() -> None:
    model = FAMILIES["gemma3"].make()
    seen = [
        s.eager.mask
        for _, s in sites_of(export_model(model, attention_seq=40))
        if isinstance(s, AttentionSite)
    ]
    assert any(seen)


def test_eager_attention_is_recorded_for_no_more_tokens_than_the_model_has_positions() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes: dict[str, Any] = {**FAMILIES["mistral"].config().to_dict(), "num_hidden_layers": 1}
    # 1024 tokens would be more than the window and need a mask; the model never has so many.
    config = MistralConfig(**{**sizes, "sliding_window": 100, "max_position_embeddings": 64})
    model = MistralForCausalLM(config).eval()
    ((_, site),) = [
        (node, site)
        for node, site in sites_of(export_model(model, attention_seq=1024))
        if isinstance(site, AttentionSite)
    ]
    assert site.eager.causal and not site.eager.mask


def sites_of(gm: GraphModule) -> list[tuple[object, object]]:
    Pipeline.parse("annotate-sites").run(gm)
    return list(sites(gm))


def test_conv1d_is_an_addmm_with_its_weight_lying_down() -> None:
    site = matmul_of(graph("gpt2"), "h.0.mlp.c_fc")
    assert (site.layout, site.bias, site.k, site.n) == (Layout.CONV1D, True, Extent(48), Extent(88))


def test_experts_are_seen_as_experts() -> None:
    site = matmul_of(graph("mixtral"), "layers.0.mlp.experts.gate_up_proj")
    assert (site.layout, site.experts, site.m) == (Layout.EXPERTS, 4, Extent(2, "token"))


def test_targets_are_the_linears_of_the_layers_and_others_have_a_reason() -> None:
    refused = {
        site.name: note(node).refusals[-1].reason
        for node, site in matmuls(graph("mixtral"))
        if not note(node).targeted
    }
    assert refused["lm_head"] == "outside the repeated layers"
    assert (
        refused["model.layers.0.mlp.experts.down_proj"]
        == "experts in one tensor, planned one by one"
    )
    assert "no Linear" in refused["model.layers.0.mlp.gate"]


@pytest.mark.parametrize("name", few(FAMILIES, *CORNERS))
def test_layers_are_those_that_the_names_of_weights_count(name: str) -> None:
    layers = layers_of(graph(name))
    for node, site in matmuls(graph(name)):
        if site.weight is not None:
            assert in_layer(node, layers) == any(p.isdigit() for p in site.name.split("."))


@pytest.mark.parametrize(
    "name",
    [
        # All of their layers are there, whatever their number is said to be.
        pytest.param(name, marks=pytest.mark.exhaustive)
        if "mamba" in name or "zamba" in name
        else name
        for name in known_configs()
    ],
)
def test_known_configurations_are_built_without_weights(name: str) -> None:
    config = read_config(name)
    config.num_hidden_layers = 1
    model = skeleton(config)
    assert all(p.is_meta for p in model.parameters())
    assert export_model(model).graph.output_node() is not None


def test_unknown_architecture_is_refused_with_a_reason(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "config.json"
    file.write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(UnsupportedModel, match="no-such-thing"):
        read_config(file)


def test_missing_model_names_what_works_without_network() -> None:
    with pytest.raises(CheckpointError, match="llama-3-8b"):
        read_config("no/such/model-anywhere")


def test_a_module_that_cannot_be_exported_says_why() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if bool(x.sum() > 0) else x - 1

    with pytest.raises(
        CaptureError, match=r"Branches: the model \(Branches, .*\) branches on values"
    ):
        export_model(Branches(), {"x": torch.ones(3, 5)})


def test_experts_take_at_least_the_time_of_reading_their_weights() -> None:
    from gacfx.core.tiers import TierPrediction
    from gacfx.hardware.latency import estimate_us

    one = matmul_of(graph("mixtral"), "layers.0.mlp.experts.gate_up_proj")
    site = replace(one, k=Extent(4096), n=Extent(28672), experts=8, dtype="bf16")
    decode = Workload(batch=8, mode="decode")
    found = estimate_us(site, TierPrediction(1, "grouped"), load("h200"), decode)
    read_all = 8 * 4096 * 28672 * 2 / (load("h200").bandwidth_gbps * 1e3)
    assert found.us >= found.floor_us >= read_all


def test_layers_of_two_stacks_are_not_folded_into_each_other() -> None:
    names = {r.name for r in fold(read_rows(graph("t5"), WORKLOAD)) if r.layers}
    assert any(n.startswith("encoder.block.*.") for n in names)
    assert any(n.startswith("decoder.block.*.") for n in names)
