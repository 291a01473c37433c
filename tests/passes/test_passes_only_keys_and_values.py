"""Keys and values of a graph, told without names, and why other weights are neither."""

from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.captured import treated
from gacfx.compressors.methods import METHODS
from gacfx.core.structures import Positions
from gacfx.coupling.key_values import NEITHER, _heads_of, key_values
from gacfx.errors import UnsupportedModel
from gacfx.graph.notes import Fact, facts, state, target_sites
from gacfx.graph.pipeline import Pipeline
from gacfx.passes.planning.read_graph import refused_sites
from gacfx.tracing.export import export_model
from tests.families.zoo import FAMILIES


def graph_of(family: str, **changes: Any) -> GraphModule:
    model: Any = FAMILIES[family].make()
    for name, value in changes.items():
        setattr(model.config, name, value)
    graph = export_model(model)
    Pipeline.parse(pipelines.SELECT).run(graph)
    return graph


def narrowed(graph: GraphModule) -> GraphModule:
    Pipeline.parse(pipelines.KEYS_AND_VALUES).run(graph)
    return graph


@pytest.mark.parametrize(
    ("family", "changes", "heads"),
    [
        ("llama", {}, 2),
        ("llama", {"_attn_implementation": "eager"}, 2),
        ("qwen3", {}, 2),
        ("gemma3", {"_attn_implementation": "eager"}, 2),
        ("opt", {}, 6),
    ],
    ids=str,
)
def test_keys_and_values_are_found_with_their_heads(
    family: str, changes: dict[str, Any], heads: int
) -> None:
    graph = narrowed(graph_of(family, **changes))
    names = list(target_sites(graph))
    assert {name.rpartition(".")[2] for name in names} == {"k_proj", "v_proj"} and len(names) == 4
    assert state(graph).heads == dict.fromkeys(names, heads)
    reasons = refused_sites(graph)
    inside = {n: r for n, r in reasons.items() if "layers." in n and n not in names}
    assert len(inside) >= 8 and set(inside.values()) == {NEITHER}
    assert Fact.TARGETS in facts(graph)


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gptneox"])
def test_fused_weights_are_left_with_the_reason(family: str) -> None:
    graph = graph_of(family)
    with pytest.raises(UnsupportedModel, match="it makes queries and keys and values of an att"):
        treated(graph, METHODS.find("palu"))
    assert target_sites(graph) and not state(graph).heads  # the graph itself is left as it is


def test_keys_of_several_layers_are_left_with_the_reason() -> None:
    problems = key_values(graph_of("deepseekv3")).problems
    said = {name.rpartition(".")[2]: why for name, why in problems.items()}
    assert said["kv_b_proj"] == "it makes keys and values of an attention at once"
    assert said["kv_a_proj_with_mqa"].startswith("several layers make the keys of an attention: kv")


def test_heads_that_do_not_come_one_after_the_other_are_none() -> None:
    def positions(*units: int) -> Positions:
        found = torch.tensor(units).numpy()
        return Positions(found, 0 * found - 1)

    assert _heads_of(positions(0, 0, 1, 1, 2, 2)) == (3, "")
    assert _heads_of(positions(0, 0, 0)) == (1, "")
    for odd in (
        positions(0, 1, 0, 1),
        positions(0, 0, 1),
        positions(-1, -1),
        positions(1, 1, 0, 0),
    ):
        assert _heads_of(odd) == (0, "the heads of its outputs do not come one after the other")
    assert "not known" in _heads_of(None)[1]


def test_a_copy_is_narrowed_and_tells_what_it_cannot_do() -> None:
    graph = graph_of("llama")
    before = dict(target_sites(graph))
    with pytest.warns(UserWarning, match="2 key-value heads come in no groups of 4; groups of 2"):
        narrow = treated(graph, METHODS.find("palu"))
    assert len(target_sites(narrow)) == 4 and target_sites(graph) == before
    assert state(narrow).structures is state(graph).structures
    assert treated(graph, METHODS.find("svd")) is graph
    assert treated(narrow, METHODS.find("palu:heads-per-group=1")) is narrow
