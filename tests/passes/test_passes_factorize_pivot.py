"""factorize with pivots: every pass that follows reads, checks and keeps the rewritten graph."""

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from gacfx.core.decision import LowRank, Pivot
from gacfx.core.planned import Planned
from gacfx.errors import PassError
from gacfx.graph import edit, ops
from gacfx.graph.notes import matmuls, note, state
from gacfx.graph.ops import module_stack
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.couple_dims import CoupleDims
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.passes.verify.check_alignment import CheckAlignment
from gacfx.passes.verify.check_budget import CheckBudget, weight_params
from tests.passes.graphs import (
    PREFILL,
    annotated,
    h200,
    ids,
    llama,
    net,
    planned,
    run,
    site_of,
)

QKV, OUT = "layers.0.qkv", "layers.1.out"
"""24 x 20 with a bias: pivots among its inputs. 20 x 24: pivots among its outputs."""
UP0, O1 = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"


def rewritten(align: int = 1) -> tuple[GraphModule, Planned]:
    gm = annotated(net())
    made = planned(gm, {QKV: Pivot(8), OUT: Pivot(12), "layers.0.out": LowRank(8)}, align=align)
    return run(gm, Factorize(plan=made.plan, factors=made.factors), Clean()), made


def test_the_graph_computes_with_the_product_of_the_pair() -> None:
    gm, made = rewritten()
    want = net()
    pairs = planned(annotated(net()), {QKV: 8, OUT: 12, "layers.0.out": 8})
    for name, pair in pairs.factors.items():
        weight = (pair.tensors["up"] @ pair.tensors["down"]).float()
        want.get_submodule(name).weight = nn.Parameter(weight)
    torch.testing.assert_close(gm(ids()), want(ids()), rtol=1e-5, atol=1e-5)
    assert made.plan.kept_params < pairs.plan.kept_params


def test_the_bias_stays_where_the_layer_adds_it() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(24, 20)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.up(x)
            return out

    from gacfx.tracing.export import export_model

    torch.manual_seed(0)
    gm = run(export_model(Wide(), {"x": torch.randn(3, 17, 24)}), AnnotateSites())
    bias = gm.get_parameter("up.bias")
    made = planned(gm, {"up": Pivot(20 - 1)})
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean())
    assert gm.get_parameter("up.bias") is bias
    tall, _ = rewritten()
    assert tall.get_parameter(f"{QKV}.product.bias") is net().get_parameter(f"{QKV}.bias")
    assert f"{QKV}.bias" not in dict(tall.named_parameters())


def test_the_order_is_a_buffer_that_cleaning_keeps() -> None:
    gm, made = rewritten()
    for module in (QKV, OUT):
        order = gm.get_buffer(f"{module}.order")
        assert order.dtype == torch.int32
        assert torch.equal(order, made.factors[module].tensors["order"])
        assert order is not made.factors[module].tensors["order"]
    assert f"{QKV}.order" in gm.state_dict()


def test_nodes_say_in_which_layer_they_are() -> None:
    gm, _ = rewritten()
    stacks = {
        (ops.short_name(n) or "item", module_stack(n)[-1])
        for n in gm.graph.nodes
        if any(path == OUT for path, _ in module_stack(n))
    }
    assert stacks == {
        ("linear", (f"{OUT}.product", "Linear")),
        ("linear", (f"{OUT}.coefficients", "Linear")),
        ("cat", (OUT, "PivotLinear")),
        ("index_select", (OUT, "PivotLinear")),
    }


def test_the_next_analysis_sees_both_products() -> None:
    gm = annotated(llama())
    made = planned(gm, {UP0: Pivot(16), O1: Pivot(13)})
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean(), AnnotateSites())
    run(gm, SelectTargets(), PredictTiers(profile=h200(), workload=PREFILL))
    sizes = {s.name: s.sizes(PREFILL) for _, s in matmuls(gm)}
    assert sizes[f"{UP0}.coefficients"] == (1024, 32, 16)
    assert sizes[f"{UP0}.product"] == (1024, 16, 88)
    assert sizes[f"{O1}.product"] == (1024, 48, 13)
    assert sizes[f"{O1}.coefficients"] == (1024, 13, 35)
    for module in (UP0, O1):
        for child in ("product", "coefficients"):
            node, _ = site_of(gm, f"{module}.{child}")
            assert [r.reason for r in note(node).refusals] == ["already factorized"]
            assert note(node).tier is not None
    reasons = [note(node).refusals for node, site in matmuls(gm) if site.name == "lm_head"]
    assert "already factorized" not in str(reasons)


def test_coupling_follows_what_is_gathered_and_freezes_it() -> None:
    gm = annotated(llama())
    made = planned(gm, {UP0: Pivot(16), O1: Pivot(13)})
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean(), CoupleDims())
    dims = state(gm).dims
    assert dims is not None
    assert dims.notes == ()
    gathered = ("index_select", ".order")
    frozen = {
        (use.weight, use.axis)
        for dim in dims.dims
        if any(word in dim.frozen for word in gathered)
        for use in dim.uses
    }
    assert {(f"{UP0}.coefficients.weight", 1), (f"{UP0}.product.weight", 1)} <= frozen
    assert {(f"{O1}.coefficients.weight", 0), (f"{O1}.product.weight", 0)} <= frozen


def test_every_dim_that_was_made_is_checked() -> None:
    gm, made = rewritten(align=4)
    CheckAlignment(plan=made.plan)(gm)
    gm, made = rewritten(align=8)
    with pytest.raises(PassError, match="qkv: pivot 8: 12 is no multiple of 8"):
        CheckAlignment(plan=made.plan)(gm)


def test_the_budget_counts_what_pivots_keep() -> None:
    gm, made = rewritten()
    CheckBudget(plan=made.plan)(gm)
    assert weight_params(gm, QKV) == Pivot(8).params(24, 20)
    assert weight_params(gm, OUT) == Pivot(12).params(20, 24)


def test_verify_sees_an_order_that_is_not_there() -> None:
    gm, made = rewritten()
    delattr(gm.get_submodule(OUT), "order")
    with pytest.raises(PassError, match=r"the graph has no layers.1.out.order; the plan says"):
        Factorize(plan=made.plan, factors=made.factors).verify(gm)


def test_a_fork_of_the_rewritten_graph_computes_the_same() -> None:
    gm, _ = rewritten()
    assert torch.equal(edit.fork(gm)(ids()), gm(ids()))
