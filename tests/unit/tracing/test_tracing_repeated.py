"""A graph of repeated layers is the graph that tracing every layer gives, node by node."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from gacfx.graph import edit, ops
from gacfx.graph.notes import note
from gacfx.tracing import export
from gacfx.tracing.export import export_model
from gacfx.tracing.repeated import stack_of
from gacfx.tracing.skeleton import skeleton
from tests.few import few

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 6,
    "q_lora_rank": 20,
    "kv_lora_rank": 22,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 40,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 3,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 8},
    "qwen2": {"num_hidden_layers": 7},
    "gemma3_text": {"num_hidden_layers": 12, "head_dim": 8, "sliding_window": 16},
    "mixtral": {"num_hidden_layers": 6, "num_local_experts": 4, "sliding_window": None},
    "deepseek_v3": {"num_hidden_layers": 9, **LATENT},
    "opt": {"num_hidden_layers": 8, "ffn_dim": 88, "word_embed_proj_dim": 48},
    "gpt2": {"n_layer": 8, "n_embd": 48, "n_head": 6, "n_positions": 64},
    "phi3": {"num_hidden_layers": 6, "pad_token_id": 0},
}


def made(kind: str, **more: Any) -> Any:
    from transformers import AutoConfig

    return skeleton(AutoConfig.for_model(kind, **{**SIZES, **FAMILIES[kind], **more}))


def spelled(gm: GraphModule) -> list[Any]:
    """Everything of a graph but the names of its nodes."""
    places = {node: at for at, node in enumerate(gm.graph.nodes)}

    def text(value: Any) -> Any:
        if isinstance(value, Node):
            return places[value]
        if isinstance(value, list | tuple):
            return [text(each) for each in value]
        if isinstance(value, dict):
            return {key: text(each) for key, each in value.items()}
        return repr(value)

    return [
        (
            node.op,
            str(node.target) if node.op != "placeholder" else "",
            text(node.args),
            text(node.kwargs),
            ops.shape(node),
            ops.module_stack(node),
            note(node).eager,
        )
        for node in gm.graph.nodes
    ]


@pytest.mark.parametrize("kind", few(FAMILIES, "llama", "gemma3_text", "deepseek_v3", "gpt2"))
def test_the_graph_is_that_of_all_layers(kind: str) -> None:
    model = made(kind)
    stack = stack_of(model)
    assert stack is not None and len(stack.traced) < len(stack.kinds)
    short, whole = export_model(model, alike=True), export_model(model)
    assert spelled(short) == spelled(whole)
    mine, all_of_it = (dict(gm.named_parameters()) for gm in (short, whole))
    assert mine.keys() == all_of_it.keys()
    assert all(mine[name] is all_of_it[name] for name in mine)
    assert dict(short.named_buffers()).keys() == dict(whole.named_buffers()).keys()


def test_only_one_layer_of_each_kind_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = export._traced

    def spy(model: Any, kwargs: Any) -> GraphModule:
        seen.append(len(model.model.layers))
        return real(model, kwargs)

    monkeypatch.setattr(export, "_traced", spy)
    model = made("deepseek_v3")
    export_model(model, alike=True)
    assert seen == [3], "the first, a dense one and one with experts"
    assert len(model.model.layers) == model.config.num_hidden_layers == 9


@pytest.mark.parametrize("what", ["a width", "a setting", "what the configuration lists"])
def test_layers_that_differ_are_of_different_kinds(what: str) -> None:
    model = made("gemma3_text" if what.startswith("what") else "llama")
    kinds = len(set(stack_of(model).kinds))  # type: ignore[union-attr]
    layer = model.model.layers[5]
    if what == "a width":
        with torch.device("meta"):
            layer.mlp.up_proj = nn.Linear(48, 40, bias=False)
    elif what == "a setting":
        layer.self_attn.scaling = 2.0
    else:
        model.config.layer_types[4] = "full_attention"
    found = stack_of(model)
    assert found is not None
    assert len(set(found.kinds)) == kinds + 1


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


class Toy(nn.Module):
    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(8))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layers, x)


def chain(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def scaled(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x) * 2
    return x


def skipping(layers: Any, x: Tensor) -> Tensor:
    before = x
    for layer in layers:
        x, before = layer(x) + before, x
    return x


def by_number(layers: Any, x: Tensor) -> Tensor:
    for number in range(8):
        x = layers[number](x)
    return x


def gathered(layers: Any, x: Tensor) -> Tensor:
    found = x
    for layer in layers:
        x = layer(x)
        found = found + x
    return found


@pytest.mark.parametrize("run", [chain, scaled, skipping, gathered, by_number])
def test_what_is_no_chain_is_traced_whole(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Node] = []
    real = edit.copy_node

    def spy(gm: GraphModule, node: Node, *args: Any, **kwargs: Any) -> Node:
        copied.append(node)
        return real(gm, node, *args, **kwargs)

    monkeypatch.setattr(edit, "copy_node", spy)
    model, x = Toy(run).eval(), torch.randn(3, 8)
    gm = export_model(model, {"x": x}, alike=True)
    assert bool(copied) == (run is chain)
    assert torch.equal(gm(x=x), model(x))


class Turning(Layer):
    """Does something else at odd places."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y.relu() if self.layer_idx % 2 else y


def test_layers_that_take_turns_by_their_number_are_traced_whole() -> None:
    model, x = Toy(chain).eval(), torch.randn(3, 8)
    model.layers = nn.ModuleList(map(Turning, range(8)))
    assert stack_of(model) is not None, "nothing of their settings tells them apart"
    gm = export_model(model, {"x": x}, alike=True)
    assert torch.equal(gm(x=x), model(x))


def test_few_layers_are_traced() -> None:
    assert stack_of(made("llama", num_hidden_layers=5)) is None
