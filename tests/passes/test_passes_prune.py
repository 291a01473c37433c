"""prune: units and blocks go exactly where the plan says, or nothing is changed at all."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.plan import Choice
from gacfx.core.planned import Planned
from gacfx.core.pruning import Skip, Sliced, Width
from gacfx.core.structures import Structure
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import PassError, PlanMismatch
from gacfx.graph import edit, ops
from gacfx.graph.notes import Refusal, facts, matmuls, note, state
from gacfx.graph.ops import Op, module_stack
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.couple_dims import CoupleDims
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.passes.rewrite.prune import Prune
from gacfx.passes.verify.check_alignment import CheckAlignment
from gacfx.passes.verify.check_budget import CheckBudget
from gacfx.tracing.export import export_model
from tests.families.narrow import decision_of, masked, sliced
from tests.passes.graphs import (
    PREFILL,
    annotated,
    graph_of,
    h200,
    llama,
    model_of,
    planned,
    run,
    site_of,
    text_of,
)
from tests.passes.pruning import (
    ATTENTION,
    KEPT,
    MLP,
    choice_of,
    ids,
    plan_of,
    prune,
    rewrite,
    shape,
    structure,
)
from tests.svd import Svd

# -- units -----------------------------------------------------------------------------------------


def test_weights_are_those_of_the_plan_and_others_the_very_same() -> None:
    gm, made = annotated(llama()), plan_of((structure(), decision_of(structure(), KEPT)))
    old = dict(gm.named_parameters())
    prune(gm, made)
    for name, parameter in gm.named_parameters():
        module = name.removesuffix(".weight")
        if module in made.factors:
            wanted = made.factors[module].tensors["weight"]
            assert torch.equal(parameter, wanted) and parameter is not wanted
            assert parameter.data_ptr() != wanted.data_ptr()
        else:
            assert parameter is old[name]
    assert shape(gm, f"{MLP}.up_proj.weight") == (58, 48)
    assert shape(gm, f"{MLP}.down_proj.weight") == (48, 58)


def test_the_weight_of_the_plan_counts_and_not_the_rows_of_the_dense_one() -> None:
    """It may have been refitted."""
    gm, made = annotated(llama()), plan_of((structure(), decision_of(structure(), KEPT)))
    old = made.factors[f"{MLP}.down_proj"]
    refitted = replace(old, tensors={"weight": old.tensors["weight"].double() * 2})
    prune(gm, replace(made, factors={**made.factors, f"{MLP}.down_proj": refitted}))
    found = gm.get_parameter(f"{MLP}.down_proj.weight")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.data, old.tensors["weight"] * 2)


def test_outputs_take_the_order_of_the_factors_and_so_does_the_bias() -> None:
    """Channels in any order give the same, if all layers agree on it."""
    found = structure("transformer.h.0.mlp", "gpt2")
    torch.manual_seed(0)
    gm = annotated(graph_of("gpt2"))
    bias = torch.randn(88)
    edit.set_parameter(gm, "transformer.h.0.mlp.c_fc.bias", bias)
    wanted = edit.fork(gm)
    made = plan_of((found, decision_of(found, KEPT)), family="gpt2")
    rising = rewrite(edit.fork(gm), made)(input_ids=ids(), use_cache=False)[0]
    mixed = torch.randperm(len(KEPT))
    opening, closing = (made.factors[each.module] for each in found.members)
    assert opening.order is not None
    factors = {
        found.members[0].module: replace(
            opening,
            tensors={"weight": opening.tensors["weight"][mixed]},
            order=opening.order[mixed],
        ),
        found.members[1].module: replace(
            closing, tensors={"weight": closing.tensors["weight"][:, mixed]}
        ),
    }
    rewrite(gm, replace(made, factors=factors))
    torch.testing.assert_close(gm(input_ids=ids(), use_cache=False)[0], rising)
    assert torch.equal(
        gm.get_parameter("transformer.h.0.mlp.c_fc.bias"), bias[opening.order[mixed].long()]
    )
    assert (wanted(input_ids=ids(), use_cache=False)[0] - rising).abs().max() > 1e-3


def test_a_conv1d_keeps_its_layout() -> None:
    found = structure("transformer.h.0.mlp", "gpt2")
    made = plan_of((found, decision_of(found, KEPT)), family="gpt2")
    gm = rewrite(annotated(graph_of("gpt2")), made)
    assert shape(gm, "transformer.h.0.mlp.c_fc.weight") == (48, 58)
    assert shape(gm, "transformer.h.0.mlp.c_proj.weight") == (58, 48)
    assert gm.get_parameter("transformer.h.0.mlp.c_fc.weight").is_contiguous()
    CheckAlignment(plan=made.plan)(gm)


def test_sites_shapes_and_coupling_show_the_new_sizes() -> None:
    one, two = structure(), structure(ATTENTION)
    chosen = (one, decision_of(one, KEPT)), (two, decision_of(two, (0, 1), ((0, 2), (1, 2))))
    gm = annotated(llama())
    run(gm, CoupleDims(), PredictTiers(profile=h200(), workload=PREFILL))
    prune(gm, plan_of(*chosen))
    assert facts(gm) == frozenset()
    run(gm, AnnotateSites(), CoupleDims())
    sizes = {s.name: s.sizes(PREFILL) for _, s in matmuls(gm)}
    assert sizes[f"{MLP}.gate_proj"] == (1024, 48, 58)
    assert sizes[f"{ATTENTION}.q_proj"] == (1024, 48, 32)
    assert sizes[f"{ATTENTION}.o_proj"] == (1024, 32, 48)
    dims = state(gm).dims
    assert dims is not None and dims.notes == ()
    assert dims.axes[f"{ATTENTION}.q_proj.weight"][0] == "(d2*d3)*(d4+d4)"
    by_name = {dim.name: dim.size for dim in dims.dims}
    assert (by_name["d2"], by_name["d3"], by_name["d6"]) == (2, 2, 58)


def test_how_eager_mode_calls_attention_is_still_known() -> None:
    gm, two = annotated(llama()), structure(ATTENTION)
    attention = [n for n in gm.graph.nodes if ops.op_of(n) is Op.ATTENTION]
    before = [note(node).eager for node in attention]
    assert before[0] is not None and before[0].gqa
    prune(gm, plan_of((two, decision_of(two, (1,)))))
    run(gm, AnnotateSites())
    assert [note(node).eager for node in attention] == before
    site = note(attention[0]).site
    assert site is not None and (site.heads_q, site.heads_kv) == (3, 1)  # type: ignore[union-attr]


def test_attention_with_one_key_value_head_loses_query_heads() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=88,
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config).eval()
    gm = annotated(export_model(model))
    found = next(s for s in coupled_structures(gm) if s.name == ATTENTION)
    assert (found.units, found.heads, found.refused) == (1, 6, "")
    decision = decision_of(found, (0,), ((0, 2, 3, 5),))
    like = planned(gm, {}).plan
    plan = replace(like, choices=(choice_of(found, decision),))
    other = masked(model, found, decision)
    rewrite(gm, Planned(plan, sliced(model, found, decision)[0]))
    with torch.no_grad():
        want = other(input_ids=ids(), use_cache=False)[0]
        torch.testing.assert_close(gm(input_ids=ids(), use_cache=False)[0], want)
        assert (want - model(input_ids=ids(), use_cache=False)[0]).abs().max() > 1e-4
    assert shape(gm, f"{ATTENTION}.q_proj.weight") == (32, 48)
    assert shape(gm, f"{ATTENTION}.k_proj.weight") == (8, 48)
    # Attention would stretch a single head by itself; the graph repeats it all the same.
    (call,) = [n for n in gm.graph.nodes if ops.op_of(n) is Op.ATTENTION]
    assert [ops.shape(each) for each in call.args[:3]] == [(3, 4, 17, 8)] * 3


def test_a_graph_without_weights_is_pruned_by_factors_without_values() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    model = copy.deepcopy(model_of("llama")).to("meta")
    factors = {
        module: replace(
            each,
            tensors={name: tensor.to("meta") for name, tensor in each.tensors.items()},
            order=None if each.order is None else each.order.to("meta"),
        )
        for module, each in made.factors.items()
    }
    gm = rewrite(export_model(model), replace(made, factors=factors))
    parameter = gm.get_parameter(f"{MLP}.up_proj.weight")
    assert parameter.is_meta and tuple(parameter.shape) == (58, 48)


# -- what becomes of the rest ----------------------------------------------------------------------


def with_rests(found: Structure, rests: Mapping[str, Decision]) -> Planned:
    """A width with decisions for what is left of some weights, decomposed by plain SVD."""
    made = plan_of((found, decision_of(found, KEPT)))
    (choice,) = made.plan.choices
    decision, factors = choice.decision, dict(made.factors)
    assert isinstance(decision, Width)
    parts = []
    for member, part in zip(found.members, decision.parts, strict=True):
        rest = rests.get(member.module.rpartition(".")[2], DENSE)
        assert isinstance(part, Sliced)
        parts.append(replace(part, rest=rest))
        if not rest.is_dense:
            old = factors[member.module]
            tensors = Svd.of(old.tensors["weight"]).factors(rest, torch.float32).tensors
            factors[member.module] = replace(old, decision=parts[-1], tensors=tensors)
    choice = replace(choice, decision=replace(decision, parts=tuple(parts)))
    budget = replace(made.plan.budget, limit_params=choice.params)
    return Planned(replace(made.plan, choices=(choice,), budget=budget), factors)


def test_factorize_carries_out_the_rest_on_the_smaller_weight() -> None:
    rests = {"gate_proj": LowRank(8), "down_proj": Pivot(13)}
    made = with_rests(structure(), rests)
    gm = rewrite(llama(), made)
    assert shape(gm, f"{MLP}.gate_proj.up.weight") == (58, 8)
    assert shape(gm, f"{MLP}.up_proj.weight") == (58, 48)
    assert shape(gm, f"{MLP}.down_proj.product.weight") == (13, 58)
    names = [name for name, _ in gm.named_parameters()]
    assert f"{MLP}.gate_proj.weight" not in names and f"{MLP}.down_proj.weight" not in names
    # The same numbers, from weights that are made of the factors.
    want = plan_of((structure(), decision_of(structure(), KEPT)))
    pairs = {
        "gate_proj": Svd.of(want.factors[f"{MLP}.gate_proj"].tensors["weight"]).pair(8),
        "down_proj": Svd.of(want.factors[f"{MLP}.down_proj"].tensors["weight"]).pair(13),
    }
    factors = dict(want.factors)
    for name, (up, down) in pairs.items():
        old = factors[f"{MLP}.{name}"]
        factors[f"{MLP}.{name}"] = replace(old, tensors={"weight": (up @ down).float()})
    dense = rewrite(llama(), replace(want, factors=factors))
    args = {"input_ids": ids(), "use_cache": False}
    torch.testing.assert_close(gm(**args)[0], dense(**args)[0], rtol=1e-4, atol=1e-5)
    CheckBudget(plan=made.plan)(gm)
    CheckAlignment(plan=made.plan)(gm)


def test_between_prune_and_factorize_what_is_left_of_the_dense_weight_stands_there() -> None:
    made, gm = with_rests(structure(), {"gate_proj": LowRank(8)}), annotated(llama())
    gate = f"{MLP}.gate_proj"
    dense, old = gm.get_parameter(f"{gate}.weight"), made.factors[gate]
    assert old.order is not None
    backwards = replace(old, order=old.order.flip(0))
    prune(gm, replace(made, factors={**made.factors, gate: backwards}))
    assert torch.equal(gm.get_parameter(f"{gate}.weight"), dense[list(KEPT[::-1])])


def test_factorize_alone_says_that_prune_comes_first() -> None:
    made, gm = with_rests(structure(), {"gate_proj": LowRank(8)}), annotated(llama())
    text = text_of(gm)
    message = "88 x 48, the plan is for 58 x 48; run prune first$"
    with pytest.raises(PlanMismatch, match=message):
        run(gm, Factorize(plan=made.plan, factors=made.factors))
    skip = plan_of((structure(), Skip()))
    with pytest.raises(
        PlanMismatch, match="still has .*, which the plan takes out; run prune first"
    ):
        run(gm, Factorize(plan=skip.plan, factors=skip.factors))
    assert text_of(gm) == text


def test_a_plan_of_ranks_alone_is_left_to_factorize() -> None:
    gm = annotated(llama())
    made, text = planned(gm, {f"{MLP}.up_proj": 8}), text_of(gm)
    assert not Prune(plan=made.plan, factors=made.factors)(gm).modified
    assert text_of(gm) == text


def test_weights_that_the_plan_keeps_dense_say_so_after_both_passes() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    q = Choice.single(f"{ATTENTION}.q_proj", 48, 48, DENSE, None, 0.0)
    made = replace(made, plan=replace(made.plan, choices=(*made.plan.choices, q)))
    gm = run(rewrite(llama(), made), AnnotateSites())
    refused = note(site_of(gm, f"{ATTENTION}.q_proj")[0]).refusals
    assert refused == (Refusal("factorize", "the plan keeps it dense"),)


# -- blocks ----------------------------------------------------------------------------------------


def test_a_skipped_block_gives_zeros_and_leaves_nothing_behind() -> None:
    gm, made = annotated(llama()), plan_of((structure(), Skip()), (structure(ATTENTION), Skip()))
    prune(gm, made)
    zeros = [n for n in gm.graph.nodes if ops.short_name(n) == "zeros_like"]
    assert [module_stack(n)[-1][0] for n in zeros] == [f"{ATTENTION}.o_proj", f"{MLP}.down_proj"]
    assert [ops.short_name(next(iter(n.users))) for n in zeros] == ["add", "add"]
    paths = {path for node in gm.graph.nodes for path, _ in module_stack(node)}
    assert not [p for p in paths if p.startswith((f"{MLP}.gate", f"{ATTENTION}.q"))]
    left = [name for name, _ in gm.named_parameters() if name.startswith((MLP, ATTENTION))]
    assert left == []
    assert "model.layers.0.input_layernorm.weight" in dict(gm.named_parameters())


def test_a_skipped_block_adds_exactly_nothing() -> None:
    gm = rewrite(llama(), plan_of((structure(), Skip())))
    other = masked(model_of("llama"), structure(), Skip())
    with torch.no_grad():
        want = other(input_ids=ids(), use_cache=False)[0]
        assert torch.equal(gm(input_ids=ids(), use_cache=False)[0], want)


def test_the_checks_that_follow_know_that_a_weight_is_gone() -> None:
    made = plan_of((structure(), Skip()))
    gm = rewrite(llama(), made)
    run(gm, CheckBudget(plan=made.plan), CheckAlignment(plan=made.plan))
    edit.set_parameter(gm, f"{MLP}.up_proj.weight", torch.ones(88, 48))
    with pytest.raises(PassError, match="the graph still has model.layers.0.mlp.up_proj.weight;"):
        CheckAlignment(plan=made.plan)(gm)


def test_parameters_that_nobody_read_before_are_left_to_clean() -> None:
    gm = annotated(llama())
    edit.set_parameter(gm, "spare.weight", torch.ones(3))
    prune(gm, plan_of((structure(), Skip())))
    assert "spare.weight" in dict(gm.named_parameters())
