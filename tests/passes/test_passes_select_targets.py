"""select-targets: the linears of the repeated layers, and for every other site a reason."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.graph import edit
from gacfx.graph.notes import Fact, facts, matmuls, note, state, target_nodes, targets
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.tracing.export import export_model
from tests.passes.graphs import Q0, annotated, graph_of, ids, llama, planned, run, snapshot


def reasons(gm: GraphModule) -> dict[str, str]:
    """Site that was left alone -> why."""
    return {
        site.name: "; ".join(r.reason for r in note(node).refusals if r.by == "select-targets")
        for node, site in matmuls(gm)
        if note(node).targeted is False
    }


class Odd(nn.Module):
    """Weights that must be left alone, one for each reason."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 20)
        self.layers = nn.ModuleList([nn.Linear(20, 20, bias=False) for _ in range(7)])
        self.layers[0].weight = self.embed.weight
        self.layers[1].weight = self.layers[2].weight
        self.own = nn.ModuleList([Router()])

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] -> [B, S, 20]."""
        x = self.embed(ids)
        for at in (0, 1, 2, 3, 4, 4):
            x = self.layers[at](x)
        last: Any = self.layers[6]
        x = last(x) * last.weight.mean()
        out: Tensor = self.own[0](x) @ x.transpose(1, 2) @ self.layers[5](x)
        return out


class Router(nn.Module):
    """A matmul with a parameter that no Linear owns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(20, 20))

    def forward(self, x: Tensor) -> Tensor:
        """[..., 20] -> [..., 20]."""
        return nn.functional.linear(x, self.weight)


@pytest.fixture(scope="module")
def odd() -> GraphModule:
    return annotated(export_model(Odd().eval(), {"ids": ids()}))


def test_the_linears_of_the_layers_are_targets() -> None:
    gm = annotated(llama())
    assert len(list(targets(gm))) == 14
    assert reasons(gm) == {"lm_head": "outside the repeated layers"}
    assert facts(gm) == {Fact.SITES, Fact.TARGETS}


def test_conv1d_is_a_target_like_any_linear() -> None:
    names = [site.name for _, site in targets(annotated(graph_of("gpt2")))]
    assert len(names) == 8 and "transformer.h.1.mlp.c_proj" in names


def test_the_graph_itself_is_left_alone() -> None:
    gm = run(llama(), AnnotateSites())
    before = str(gm.graph)
    assert not SelectTargets()(gm).modified
    assert str(gm.graph) == before


def test_twice_is_once() -> None:
    gm = annotated(llama())
    before = snapshot(gm)
    assert snapshot(run(gm, SelectTargets())) == before


def test_another_choice_replaces_the_first_one() -> None:
    gm = annotated(llama())
    run(gm, SelectTargets(skip=("*.layers.0.*",)))
    assert len(list(targets(gm))) == 7


def test_patterns_leave_modules_out_and_say_which_pattern_did() -> None:
    gm = run(llama(), AnnotateSites(), SelectTargets(skip=("*.down_proj", "*layers.1.*")))
    found = reasons(gm)
    assert found["model.layers.0.mlp.down_proj"] == "left out by skip=*.down_proj"
    assert found["model.layers.1.mlp.down_proj"] == "left out by skip=*.down_proj"
    assert found["model.layers.1.self_attn.q_proj"] == "left out by skip=*layers.1.*"
    assert len(list(targets(gm))) == 6


def test_experts_and_routers_are_left_alone() -> None:
    found = reasons(annotated(graph_of("mixtral")))
    assert found["model.layers.0.mlp.experts.down_proj"] == (
        "experts in one tensor, planned one by one"
    )
    assert "which is no Linear" in found["model.layers.0.mlp.gate"]


def test_a_weight_that_is_shared_with_another_parameter_is_left_alone(odd: GraphModule) -> None:
    found = reasons(odd)
    assert found["layers.0"] == "weight is shared with embed.weight"
    assert found["layers.2"] == "weight is shared with layers.1.weight"


def test_a_copy_of_the_graph_still_knows_a_tied_weight(odd: GraphModule) -> None:
    # A copy keeps one name for it; that others read it can still be seen.
    gm = run(edit.fork(odd), AnnotateSites(), SelectTargets())
    assert [site.name for _, site in targets(gm)] == [site.name for _, site in targets(odd)]
    assert "weight is used 2 times, and not in the same way" in reasons(gm)["layers.0"]


def test_a_module_that_is_called_twice_is_one_target(odd: GraphModule) -> None:
    assert [len(nodes) for nodes in target_nodes(odd).values()] == [1, 2, 1]


def test_a_weight_that_something_else_reads_too_is_left_alone(odd: GraphModule) -> None:
    assert reasons(odd)["layers.6"] == "weight is used 2 times, and not in the same way"


def test_a_parameter_that_no_linear_owns_is_left_alone(odd: GraphModule) -> None:
    assert reasons(odd)["own.0"] == "owned by Router, which is no Linear"


def test_products_of_activations_have_no_weight_to_compress(odd: GraphModule) -> None:
    assert "both operands are activations" in reasons(odd).values()


def test_what_remains_is_a_target(odd: GraphModule) -> None:
    assert [*target_nodes(odd)] == ["layers.3", "layers.4", "layers.5"]


def test_factors_are_not_factorized_again() -> None:
    gm = run(llama(), AnnotateSites())
    made = planned(gm, {Q0: 16})
    run(gm, Factorize(plan=made.plan, factors=made.factors), AnnotateSites(), SelectTargets())
    found = reasons(gm)
    assert found[f"{Q0}.down"] == found[f"{Q0}.up"] == "already factorized"
    assert len(list(targets(gm))) == 13


def test_selecting_again_forgets_old_reasons_and_what_was_planned() -> None:
    gm = annotated(llama())
    SelectTargets(skip=("*.q_proj",))(gm)
    state(gm).candidates = {}
    SelectTargets()(gm)
    q_proj = next(n for n, s in matmuls(gm) if s.name.endswith("q_proj"))
    assert note(q_proj).targeted and note(q_proj).refusals == ()
    assert state(gm).candidates is None
