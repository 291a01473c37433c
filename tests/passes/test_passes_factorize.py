"""factorize: two linears in place of one, exactly where the plan says, nothing else touched."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from gacfx.core.decision import of_rank
from gacfx.core.materialise import Factors
from gacfx.core.plan import Choice
from gacfx.core.planned import Planned
from gacfx.errors import PassError, PipelineError, PlanError, PlanMismatch
from gacfx.graph import ops
from gacfx.graph.notes import Fact, Refusal, facts, matmuls, note, state
from gacfx.graph.ops import Op, module_stack
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.couple_dims import CoupleDims
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.tracing.export import export_model
from tests.passes.graphs import (
    DOWN0,
    PREFILL,
    Q0,
    Q1,
    annotated,
    h200,
    ids,
    llama,
    net,
    planned,
    run,
    site_of,
    text_of,
)

QKV, OUT = "layers.0.qkv", "layers.1.out"


def factorize(gm: GraphModule, made: Planned) -> PassResult:
    return Factorize(plan=made.plan, factors=made.factors)(gm)


def weight_of(node: Node) -> str | None:
    """Weight of a linear; None for any other node."""
    return ops.weight_name(node.args[1]) if ops.op_of(node) is Op.LINEAR else None


def linears(gm: GraphModule) -> list[str]:
    """Weights of the linears in graph order."""
    return [name for node in gm.graph.nodes if (name := weight_of(node)) is not None]


def test_each_planned_linear_becomes_two_and_the_others_stay() -> None:
    gm = annotated(net())
    assert factorize(gm, planned(gm, {QKV: 8, OUT: 8})).modified
    assert linears(gm) == [
        "layers.0.qkv.down.weight",
        "layers.0.qkv.up.weight",
        "layers.0.out.weight",
        "layers.1.qkv.weight",
        "layers.1.out.down.weight",
        "layers.1.out.up.weight",
        "head.weight",
    ]


def test_the_graph_computes_with_the_factors() -> None:
    gm = annotated(net())
    made = planned(gm, {QKV: 8, OUT: 8})
    want = net()
    for name, pair in made.factors.items():
        want.get_submodule(name).weight = nn.Parameter(
            (pair.tensors["up"] @ pair.tensors["down"]).float()
        )
    factorize(gm, made)
    torch.testing.assert_close(gm(ids()), want(ids()), rtol=1e-5, atol=1e-6)


def test_factors_of_full_rank_change_nothing_that_is_computed() -> None:
    gm = annotated(net())
    before = gm(ids())
    factorize(gm, planned(gm, {QKV: 20, OUT: 20}))
    torch.testing.assert_close(gm(ids()), before, rtol=1e-5, atol=1e-6)


def test_the_bias_goes_with_the_second_linear_and_is_the_same_parameter() -> None:
    gm = annotated(net())
    bias = gm.get_parameter(f"{QKV}.bias")
    factorize(gm, planned(gm, {QKV: 8, OUT: 8}))
    assert gm.get_parameter(f"{QKV}.up.bias") is bias
    names = [name for name, _ in gm.named_parameters()]
    assert f"{QKV}.bias" not in names and f"{OUT}.up.bias" not in names


def test_the_dense_weight_is_gone() -> None:
    gm = annotated(net())
    before = sum(p.numel() for p in gm.parameters())
    factorize(gm, planned(gm, {QKV: 8}))
    assert f"{QKV}.weight" not in dict(gm.named_parameters())
    assert sum(p.numel() for p in gm.parameters()) == before - 20 * 24 + 8 * (20 + 24)


def test_factors_take_the_dtype_of_the_weight() -> None:
    gm = annotated(net())
    made = planned(gm, {QKV: 8})
    assert made.factors[QKV].tensors["up"].dtype == torch.float64
    factorize(gm, made)
    assert gm.get_parameter(f"{QKV}.up.weight").dtype == torch.float32


def test_training_the_graph_does_not_change_the_factors_of_the_plan() -> None:
    gm = annotated(net())
    down, up = torch.ones(8, 20), torch.ones(24, 8)
    made = replace(planned(gm, {QKV: 8}), factors={QKV: Factors.pair(down, up)})
    factorize(gm, made)
    with torch.no_grad():
        gm.get_parameter(f"{QKV}.down.weight").zero_()
    assert bool((down == 1).all())


def test_new_nodes_say_in_which_modules_they_are_and_have_shapes() -> None:
    gm = annotated(llama())
    factorize(gm, planned(gm, {Q0: 16}))
    down, up = (n for n in gm.graph.nodes if str(weight_of(n)).startswith(f"{Q0}."))
    assert module_stack(down)[-3:] == (
        ("model.layers.0.self_attn", "LlamaAttention"),
        (Q0, "LowRankLinear"),
        (f"{Q0}.down", "Linear"),
    )
    assert (ops.shape(down), ops.shape(up)) == ((3, 17, 16), (3, 17, 48))


def test_spoilt_facts_are_dropped_and_the_plan_is_kept() -> None:
    gm = annotated(llama())
    run(gm, CoupleDims(), SyntheticCurves(), PredictTiers(profile=h200(), workload=PREFILL))
    made = planned(gm, {Q0: 16})
    factorize(gm, made)
    assert facts(gm) == {Fact.PLAN}
    assert state(gm).plan is made.plan


def test_the_new_sites_are_seen_by_the_next_analysis() -> None:
    gm = annotated(llama())
    factorize(gm, planned(gm, {Q0: 13}))
    run(gm, AnnotateSites(), PredictTiers(profile=h200(), workload=PREFILL))
    _, down = site_of(gm, f"{Q0}.down")
    _, up = site_of(gm, f"{Q0}.up")
    assert [s.sizes(PREFILL) for _, s in matmuls(gm)][:2] == [(1024, 48, 13), (1024, 13, 48)]
    assert down.dtype == up.dtype == "fp32"
    tier = note(site_of(gm, f"{Q0}.down")[0]).tier
    assert tier is not None and "N=13 %" in tier.reason


def test_a_module_that_the_plan_keeps_dense_is_refused_with_the_reason() -> None:
    gm = annotated(llama())
    made = planned(gm, {Q0: 16}, dense=(Q1, DOWN0))
    choices = [replace(c, reason="failed") if c.group == Q1 else c for c in made.plan.choices]
    factorize(gm, replace(made, plan=replace(made.plan, choices=tuple(choices))))
    run(gm, AnnotateSites())
    assert note(site_of(gm, Q1)[0]).refusals == (Refusal("factorize", "failed"),)
    assert note(site_of(gm, DOWN0)[0]).refusals == (
        Refusal("factorize", "the plan keeps it dense"),
    )


def test_a_plan_that_keeps_everything_dense_changes_nothing() -> None:
    gm = annotated(llama())
    text = text_of(gm)
    assert not factorize(gm, planned(gm, {}, dense=(Q0, Q1))).modified
    assert text_of(gm) == text


def test_a_plan_for_another_model_is_refused_and_nothing_is_changed() -> None:
    gm = annotated(net())
    text, made = text_of(gm), planned(gm, {QKV: 8})
    other = Choice.single("layers.9.qkv", 24, 20, of_rank(8), None, 0.0)
    plan = replace(made.plan, choices=(*made.plan.choices, other))
    factors = {**made.factors, "layers.9.qkv": made.factors[QKV]}
    with pytest.raises(PlanMismatch, match="^factorize: the graph has no matmul layers.9.qkv;"):
        factorize(gm, Planned(plan, factors))
    assert text_of(gm) == text


def test_a_second_time_is_refused_and_nothing_is_changed() -> None:
    gm = annotated(net())
    made = planned(gm, {QKV: 8})
    factorize(gm, made)
    run(gm, AnnotateSites())
    text = text_of(gm)
    with pytest.raises(PlanMismatch, match="the graph has no matmul layers.0.qkv;"):
        factorize(gm, made)
    assert text_of(gm) == text


def test_factors_that_are_not_those_of_the_plan_are_refused() -> None:
    gm = annotated(net())
    text, made = text_of(gm), planned(gm, {QKV: 8})
    with pytest.raises(PlanError, match="layers.0.qkv: is in the plan but not in the factors"):
        factorize(gm, replace(made, factors={}))
    small = Factors.pair(torch.ones(4, 20), torch.ones(24, 4))
    with pytest.raises(
        PlanError, match="the plan says rank 8 of 24 x 20, its factors are rank 4 of 24"
    ):
        factorize(gm, replace(made, factors={QKV: small}))
    assert text_of(gm) == text


def test_a_plan_for_other_shapes_is_refused() -> None:
    gm = annotated(net())
    choice = Choice.single(QKV, 30, 20, of_rank(8), None, 0.0)
    plan = replace(planned(gm, {QKV: 8}).plan, choices=(choice,))
    text = text_of(gm)
    with pytest.raises(PlanMismatch, match="qkv: its weight is 24 x 20, the plan is for 30 x 20$"):
        factorize(gm, Planned(plan, {QKV: Factors.pair(torch.ones(8, 20), torch.ones(30, 8))}))
    assert text_of(gm) == text


def test_a_weight_that_is_cast_on_the_way_is_refused() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(20, 24, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.up.weight.float())

    gm = export_model(Casts(), {"x": torch.ones(3, 17, 20)})
    run(gm, AnnotateSites())
    with pytest.raises(PassError, match="its weight is computed, not a parameter"):
        factorize(gm, planned(gm, {"up": 8}))


def test_without_a_plan_it_says_what_to_bind() -> None:
    with pytest.raises(PipelineError, match="^factorize needs factors, plan; bind it"):
        Factorize()(annotated(net()))


def test_verify_reads_the_weights_and_not_the_notes() -> None:
    gm = annotated(net())
    made = planned(gm, {QKV: 8})
    factorize(gm, made)
    step = Factorize(plan=made.plan, factors=made.factors)
    gm.get_submodule(f"{QKV}.down").weight = nn.Parameter(torch.ones(9, 20))
    with pytest.raises(
        PassError,
        match=r"^factorize: layers.0.qkv.down.weight is \[9, 20\]; the plan .* rank 8, \[8, 20\]$",
    ):
        step.verify(gm)


def test_targets_are_not_needed() -> None:
    assert Factorize.needs == {Fact.SITES}
    assert SelectTargets.gives <= Factorize.drops
