"""prune: plans that do not fit the graph are refused in our words, and nothing is changed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gacfx.core.plan import Choice
from gacfx.core.planned import Planned
from gacfx.core.pruning import Each, Heads, Skip, Width
from gacfx.errors import PassError, PipelineError, PlanError, PlanMismatch
from gacfx.graph.notes import Fact, matmuls, sites
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.rewrite.prune import Prune
from gacfx.tracing.export import export_model
from tests.families.narrow import decision_of
from tests.passes.graphs import (
    annotated,
    graph_of,
    llama,
    run,
    text_of,
)
from tests.passes.pruning import (
    ATTENTION,
    KEPT,
    plan_of,
    prune,
    rewrite,
    structure,
)

# -- what does not fit -----------------------------------------------------------------------------


def refused(made: Planned, error: type[Exception], message: str, family: str = "llama") -> None:
    """The plan is refused in these words, and the graph is as it was."""
    gm = annotated(graph_of(family))
    text = text_of(gm)
    with pytest.raises(error, match=message):
        prune(gm, made)
    assert text_of(gm) == text


def with_choice(made: Planned, *choices: Choice) -> Planned:
    return replace(made, plan=replace(made.plan, choices=choices))


def test_a_structure_that_the_graph_does_not_have() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    (choice,) = made.plan.choices
    message = (
        "^prune: the graph has no coupled structure model.layers.0.ffn; give it the dense graph"
    )
    refused(with_choice(made, replace(choice, group="model.layers.0.ffn")), PlanMismatch, message)


def test_a_weight_that_the_graph_does_not_have() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    (choice,) = made.plan.choices
    names = [w.module.replace("layers.0", "layers.7") for w in choice.weights]
    weights = tuple(replace(w, module=n) for w, n in zip(choice.weights, names, strict=True))
    factors = dict(zip(names, made.factors.values(), strict=True))
    made = with_choice(Planned(made.plan, factors), replace(choice, weights=weights))
    refused(made, PlanMismatch, "^prune: the graph has no matmul model.layers.7.mlp.gate_proj;")


def test_a_weight_of_another_shape() -> None:
    found = structure()
    taller = tuple(replace(m, rows=m.rows + 8) for m in found.members)
    message = "^prune: .*gate_proj: its weight is 88 x 48, the plan is for 96 x 48$"
    refused(plan_of((replace(found, members=taller), Skip())), PlanMismatch, message)


def test_a_structure_of_other_weights() -> None:
    found = structure()
    fewer = replace(found, members=found.members[1:])
    made = plan_of((fewer, decision_of(fewer, KEPT)))
    message = "^prune: model.layers.0.mlp: its weights are .*gate_proj, .*; the plan is for "
    refused(made, PlanMismatch, message)


def test_units_that_the_structure_does_not_have() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    (choice,) = made.plan.choices
    assert isinstance(choice.decision, Width)
    decision = replace(choice.decision, kept=(*KEPT[:-1], 90))
    message = "mlp: has 88 channels; the plan keeps number 90$"
    refused(with_choice(made, replace(choice, decision=decision)), PlanMismatch, message)


def test_query_heads_that_the_structure_does_not_have() -> None:
    found = structure(ATTENTION)
    made = plan_of((found, decision_of(found, (0, 1), ((0, 1), (1, 2)))))
    (choice,) = made.plan.choices
    assert isinstance(choice.decision, Heads)
    decision = replace(choice.decision, heads=((0, 1), (1, 3)))
    message = "self_attn: has 3 query heads of each; the plan keeps number 3$"
    refused(with_choice(made, replace(choice, decision=decision)), PlanMismatch, message)


def test_a_width_for_an_attention() -> None:
    found = structure(ATTENTION)
    made = plan_of((found, decision_of(found, (1,))))
    (choice,) = made.plan.choices
    assert isinstance(choice.decision, Heads)
    decision = Width(choice.decision.parts, (1,))
    message = "self_attn: has key-value heads; the plan takes channels out$"
    refused(with_choice(made, replace(choice, decision=decision)), PlanMismatch, message)


def test_a_structure_that_the_graph_refuses() -> None:
    found = structure("encoder.block.1.layer.0.SelfAttention", "t5")
    made = plan_of((found, decision_of(found, (0, 1))), family="t5")
    refused(made, PlanMismatch, f"^prune: {found.name}: may not be pruned: {found.refused}", "t5")


def test_a_block_that_must_stay() -> None:
    found = structure("model.decoder.layers.0.fc1+fc2", "opt")
    made = plan_of((found, Skip()), family="opt")
    message = "may not be taken out: it has no module of its own$"
    refused(made, PlanMismatch, message, "opt")


def test_factors_of_other_channels_than_the_plan_keeps() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    (choice,) = made.plan.choices
    assert isinstance(choice.decision, Width)
    decision = replace(choice.decision, kept=(0, *KEPT[1:]))
    message = (
        "gate_proj: its factors are of other outputs than those that stay; make the plan again"
    )
    refused(with_choice(made, replace(choice, decision=decision)), PlanError, message)


def test_sizes_that_are_not_those_of_the_units_that_stay() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    (choice,) = made.plan.choices
    assert isinstance(choice.decision, Width)
    decision = replace(choice.decision, kept=KEPT[1:])
    message = (
        "gate_proj: 57 x 48 of its weight stay, but its decision is 58 x 48; make the plan again"
    )
    refused(with_choice(made, replace(choice, decision=decision)), PlanError, message)


def test_a_slice_outside_of_any_structure() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    (choice,) = made.plan.choices
    assert isinstance(choice.decision, Width)
    message = "gate_proj: 58 x 48 outside of a width, heads or skip of its structure; make the plan"
    each = replace(choice, decision=Each(choice.decision.parts))
    refused(with_choice(made, each), PlanError, message)


def test_factors_that_are_missing() -> None:
    made = plan_of((structure(), decision_of(structure(), KEPT)))
    refused(replace(made, factors={}), PlanError, "is in the plan but not in the factors")


def test_a_second_time_is_refused() -> None:
    gm, made = annotated(llama()), plan_of((structure(), decision_of(structure(), KEPT)))
    prune(gm, made)
    run(gm, AnnotateSites())
    text = text_of(gm)
    with pytest.raises(
        PlanMismatch, match="gate_proj: its weight is 58 x 48, the plan is for 88 x 48"
    ):
        prune(gm, made)
    assert text_of(gm) == text


def test_verify_reads_the_graph() -> None:
    gm, made = annotated(llama()), plan_of((structure(), decision_of(structure(), KEPT)))
    step = Prune(plan=made.plan, factors=made.factors)
    message = "^prune: .*gate_proj is 88 x 48 in the graph; the plan says 58 x 48$"
    with pytest.raises(PassError, match=message):
        step.verify(gm)
    skip = Prune(plan=plan_of((structure(), Skip())).plan, factors={})
    with pytest.raises(PassError, match="the graph still has .*gate_proj; the plan takes it out$"):
        skip.verify(gm)
    other = plan_of((structure(), decision_of(structure(), KEPT)))
    gone = rewrite(llama(), plan_of((structure(), Skip())))
    with pytest.raises(
        PassError, match="has no model.layers.0.mlp.gate_proj; the plan says 58 x 48$"
    ):
        Prune(plan=other.plan, factors=other.factors).verify(gone)


def test_without_a_plan_it_says_what_to_bind() -> None:
    with pytest.raises(PipelineError, match="^prune needs factors, plan; bind it"):
        Prune()(annotated(llama()))
    assert Prune.needs == {Fact.SITES}
    assert Fact.TARGETS in Prune.drops and list(sites(llama())) == []


def test_a_block_of_another_width_than_it_reads_cannot_be_zeros() -> None:
    class Narrows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(20, 24), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.down(torch.relu(self.up(x)))
            return out

    from gacfx.passes.rewrite.skip import Block

    gm = run(export_model(Narrows(), {"x": torch.ones(3, 17, 20)}), AnnotateSites())
    nodes = {site.name: node for node, site in matmuls(gm)}
    message = "^prune: block: reads 3 x 17 x 20 fp32 and gives 3 x 17 x 10 fp32, so no zeros"
    with pytest.raises(PassError, match=message):
        Block("block", nodes["up"], nodes["down"])
