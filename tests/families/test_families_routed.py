"""Experts whose code branches on what was chosen: one node, and all around it as ever."""

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.families.models import families, ids, make
from benchmarks.families.unseen import unseen
from gacfx.core.sites import Workload
from gacfx.coupling.analyse import couple
from gacfx.errors import CaptureError
from gacfx.graph.left_out import remarks
from gacfx.graph.notes import sites, targets
from gacfx.graph.pipeline import Pipeline
from gacfx.tracing import routed
from gacfx.tracing.attention import on_meta
from gacfx.tracing.export import export_model
from gacfx.tracing.inputs import example_inputs
from tests.families.zoo import FAMILIES


@pytest.mark.parametrize("name", ["dbrx", "longcat_flash"])
def test_the_graph_computes_what_the_model_computes(name: str) -> None:
    model: Any = make(families()[name])
    gm = export_model(model, attention_seq=17)
    tokens = ids(3, 17)
    with torch.no_grad():
        got, want = gm(input_ids=tokens, use_cache=False)[0], model(tokens).logits
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())
    nodes = [n for n in gm.graph.nodes if "gacfx.routed" in str(n.target)]
    assert len(nodes) == model.config.num_hidden_layers // (2 if name == "longcat_flash" else 1)


def test_what_it_touches_is_frozen_and_the_rest_is_planned() -> None:
    gm = export_model(make(families()["dbrx"]), attention_seq=17)
    Pipeline.parse("annotate-sites, select-targets").run(gm)
    planned = [site.name.rpartition(".")[2] for _, site in targets(gm)]
    assert planned == ["Wqkv", "out_proj", "layer"] * 2
    said = {remark.operator: remark.reason for remark in remarks(gm)}
    assert said["gacfx.routed"] == "its products are not modelled"
    dims = couple(gm)
    assert any(note.startswith("unknown operator: gacfx.routed") for note in dims.notes)
    residual = dims.axes["transformer.blocks.0.norm_attn_norm.norm_1.weight"][0]
    assert next(dim for dim in dims.dims if dim.name == residual).frozen


def test_its_work_is_counted_as_unseen() -> None:
    model = make(families()["dbrx"])
    gm, workload = export_model(model, attention_seq=17), Workload(3, 17)
    Pipeline.parse("annotate-sites").run(gm)
    found = unseen(gm, example_inputs(model), workload)
    config = model.config.ffn_config
    experts = 3 * 2 * 51 * config.moe_top_k * model.config.d_model * config.ffn_hidden_size * 2
    assert found.operators == ("routed",) and 0.3 < found.flops < 1
    seen = sum(site.flops(workload) for _, site in sites(gm))
    assert found.flops == pytest.approx(experts / (experts + seen), abs=1e-3)


def test_a_skeleton_is_captured_as_well() -> None:
    gm = export_model(on_meta(make(families()["dbrx"])), attention_seq=17, alike=True)
    assert any("gacfx.routed" in str(node.target) for node in gm.graph.nodes)


def test_experts_that_can_be_told_are_told() -> None:
    model: Any = FAMILIES["mixtral"].make()
    model.set_experts_implementation("eager")
    gm = export_model(model, attention_seq=17)
    assert any("grouped_mm" in str(node.target) for node in gm.graph.nodes)
    assert model.config._experts_implementation == "eager"


def test_a_graph_of_another_process_says_what_to_do() -> None:
    with pytest.raises(CaptureError, match="captured in another process.*capture the model again"):
        routed.compute(torch.ones(3, 4), torch.ones(3, 2), torch.ones(3, 2), [], "Gone 0")


class Halves(nn.Module):
    """Has the arguments of experts, and gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """The first half, if anything was chosen."""
        chosen = bool(top_k_index.sum() > 0)
        return (hidden_states if chosen else -hidden_states)[..., :2] * self.scale


class Around(nn.Module):
    """A model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = Halves()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[3, 4] -> [3, 2]."""
        found: torch.Tensor = self.experts(x, x.long(), x)
        return found


def test_experts_of_another_shape_are_refused_when_they_run() -> None:
    model = Around().eval()
    gm = export_model(model, {"x": torch.ones(3, 4)})
    assert any("gacfx.routed" in str(node.target) for node in gm.graph.nodes)
    with pytest.raises(CaptureError, match=r"Halves \d+: gives \(3, 2\) for \(3, 4\)"):
        gm(x=torch.ones(3, 4))
