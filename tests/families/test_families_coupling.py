"""Coupled dims of the whole zoo: texts, soundness by slicing, and the real size of Llama-3-8B."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.core.dims import Dims, to_dot
from gacfx.coupling.analyse import couple
from gacfx.coupling.terms import Term, Terms
from tests.families.slicing import kept_mask, names, slice_against_mask, whole
from tests.families.zoo import FAMILIES, MLP_WIDTHS


def export(model: nn.Module, kwargs: dict[str, Any]) -> GraphModule:
    with torch.no_grad():
        exported = torch.export.export(model, (), kwargs, strict=False)
    graph = exported.module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return graph


@dataclass(frozen=True)
class Captured:
    model: nn.Module
    kwargs: dict[str, Any]
    graph: GraphModule
    dims: Dims


@cache
def captured(name: str) -> Captured:
    torch.set_num_threads(1)
    model, kwargs = FAMILIES[name].make(), FAMILIES[name].export_kwargs(batch=3, seq=17)
    graph = export(model, kwargs)
    return Captured(model, kwargs, graph, couple(graph))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Captured:
    return captured(request.param)


def test_everything_is_followed(family: Captured) -> None:
    assert family.dims.notes == ()


def test_every_axis_of_every_parameter_is_explained(family: Captured) -> None:
    dims, params = family.dims, dict(family.model.named_parameters(remove_duplicate=False))
    assert set(dims.axes) <= set(params)
    assert {id(params[name]) for name in dims.axes} == {id(p) for p in params.values()}
    for name, texts in dims.axes.items():
        assert [len(kept_mask(text, whole(dims))) for text in texts] == list(params[name].shape)


def test_names_follow_the_first_appearance(family: Captured) -> None:
    shown = [name for texts in family.dims.axes.values() for text in texts for name in names(text)]
    assert [dim.name for dim in family.dims.dims] == list(dict.fromkeys(shown))
    assert [dim.name for dim in family.dims.dims] == [f"d{n}" for n in range(len(set(shown)))]


def test_two_runs_agree(family: Captured) -> None:
    assert couple(family.graph) == family.dims


# One layer of each; the second one has the same form with its own dims.
TEXTS = {
    "llama": """
        model.embed_tokens.weight               d0 | d1
        model.layers.0.self_attn.q_proj.weight  (d2*d3)*(d4+d4) | d1
        model.layers.0.self_attn.k_proj.weight  d2*(d4+d4) | d1
        model.layers.0.self_attn.v_proj.weight  d2*d5 | d1
        model.layers.0.self_attn.o_proj.weight  d1 | d2*d3*d5
        model.layers.0.mlp.gate_proj.weight     d6 | d1
        model.layers.0.mlp.up_proj.weight       d6 | d1
        model.layers.0.mlp.down_proj.weight     d1 | d6
        model.layers.0.input_layernorm.weight   d1
        model.layers.1.self_attn.q_proj.weight  (d7*d8)*(d4+d4) | d1
        lm_head.weight                          d11 | d1
    """,
    "qwen2": """
        model.layers.0.self_attn.q_proj.bias    (d2*d3)*(d4+d4)
        model.layers.0.self_attn.k_proj.bias    d2*(d4+d4)
        model.layers.0.self_attn.v_proj.bias    d2*d5
    """,
    "phi3": """
        model.layers.0.self_attn.o_proj.weight
            d1 | d2*d3*d4
        model.layers.0.self_attn.qkv_proj.weight
            ((d2*d3)*(d5+d5))+(d2*(d5+d5))+(d2*d4) | d1
        model.layers.0.mlp.gate_up_proj.weight  d6+d6 | d1
        model.layers.0.mlp.down_proj.weight     d1 | d6
    """,
    "gpt2": """
        transformer.wte.weight                  d0 | d1
        lm_head.weight                          d0 | d1
        transformer.h.0.attn.c_attn.weight      d1 | (d3*d4)+(d3*d4)+(d3*d5)
        transformer.h.0.attn.c_attn.bias        (d3*d4)+(d3*d4)+(d3*d5)
        transformer.h.0.attn.c_proj.weight      d3*d5 | d1
        transformer.h.0.mlp.c_fc.weight         d1 | d6
        transformer.h.0.mlp.c_fc.bias           d6
        transformer.h.0.mlp.c_proj.weight       d6 | d1
    """,
    "deepseekv3": """
        model.layers.0.self_attn.q_a_proj.weight             d2 | d1
        model.layers.0.self_attn.q_a_layernorm.weight        d2
        model.layers.0.self_attn.q_b_proj.weight             d3*(d4+(d5*d6)) | d2
        model.layers.0.self_attn.kv_a_proj_with_mqa.weight   d7+(d5*d8) | d1
        model.layers.0.self_attn.kv_a_layernorm.weight       d7
        model.layers.0.self_attn.kv_b_proj.weight            d3*(d4+d9) | d7
        model.layers.0.self_attn.o_proj.weight               d1 | d3*d9
        model.layers.1.mlp.experts.gate_up_proj              d18 | d19+d19 | d1
        model.layers.1.mlp.experts.down_proj                 d18 | d1 | d19
        model.layers.1.mlp.shared_experts.gate_proj.weight   d22 | d1
    """,
    "gptneox": """
        gpt_neox.layers.0.attention.query_key_value.weight
            d2*(((1+1)+d3)+((1+1)+d3)+d4) | d1
    """,
    "t5": """
        encoder.block.0.layer.0.SelfAttention.q.weight                        d2*d3 | d1
        encoder.block.1.layer.0.SelfAttention.q.weight                        d2*d7 | d1
        encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight  d5 | d2
    """,
}


@pytest.mark.parametrize("name", TEXTS)
def test_axes_as_text(name: str) -> None:
    words = " ".join(TEXTS[name].split()).replace(" | ", "|").split()
    expected = dict(zip(words[::2], words[1::2], strict=True))
    found = captured(name).dims.axes
    assert {weight: "|".join(found[weight]) for weight in expected} == expected


FROZEN = {
    "llama": "d0 indexed by embedding, d4 buffer model.rotary_emb.inv_freq, d11 output",
    "mixtral": "d0 indexed by embedding, d4 buffer model.rotary_emb.inv_freq, d6 topk, "
    "d7 counted by histc, d12 topk, d13 counted by histc, d15 output",
    "vit": "d1 convolution window, d2 convolution window, d3 input pixel_values, "
    "d4 convolution window, d5 convolution window, d14 output",
}


@pytest.mark.parametrize("name", FROZEN)
def test_reasons_for_frozen_dims(name: str) -> None:
    frozen = [f"{dim.name} {dim.frozen}" for dim in captured(name).dims.dims if dim.frozen]
    assert ", ".join(frozen) == FROZEN[name]


def test_times_counts_elements_for_one_unit() -> None:
    dims = captured("llama").dims
    q_proj = "model.layers.0.self_attn.q_proj.weight"
    times = {d.name: use.times for d in dims.of(q_proj) for use in d.uses if use.weight == q_proj}
    # 2 KV heads x 3 query heads x (4 + 4): one KV head more is 24 rows, one pair of halves 12.
    assert times == {"d1": 1, "d2": 24, "d3": 16, "d4": 12}


def test_groups_of_a_layer() -> None:
    groups = captured("llama").dims.groups()
    assert [[dim.name for dim in group] for group in groups] == [
        ["d1"],
        ["d2", "d3", "d5"],
        ["d6"],
        ["d7", "d8", "d9"],
        ["d10"],
    ]


def test_dot_is_stable() -> None:
    dims = captured("llama").dims
    assert to_dot(dims, keep=["d4", "d6"]).splitlines()[3:7] == [
        '  "d4" [shape=ellipse style=dashed label="d4\\n4"];',
        '  "model.layers.0.self_attn.q_proj.weight[0]" [shape=box];',
        '  "d4" -- "model.layers.0.self_attn.q_proj.weight[0]" [label="x12"];',
        '  "model.layers.0.self_attn.k_proj.weight[0]" [shape=box];',
    ]
    assert to_dot(dims, keep=["d6"]) == (
        "graph coupling {\n"
        "  rankdir=LR;\n"
        "  node [fontname=Helvetica];\n"
        '  "d6" [shape=ellipse style=filled fillcolor=lightblue label="d6\\n88"];\n'
        '  "model.layers.0.mlp.gate_proj.weight[0]" [shape=box];\n'
        '  "d6" -- "model.layers.0.mlp.gate_proj.weight[0]";\n'
        '  "model.layers.0.mlp.up_proj.weight[0]" [shape=box];\n'
        '  "d6" -- "model.layers.0.mlp.up_proj.weight[0]";\n'
        '  "model.layers.0.mlp.down_proj.weight[1]" [shape=box];\n'
        '  "d6" -- "model.layers.0.mlp.down_proj.weight[1]";\n'
        "}\n"
    )


def test_mlp_widths_slice_as_they_mask(family: Captured) -> None:
    widths = [g for g in family.dims.groups() if any(d.size in MLP_WIDTHS for d in g)]
    assert len(widths) >= 2
    for group in widths:
        (dim,) = group
        error, effect = slice_against_mask(family.model, family.kwargs, family.dims, dim)
        assert error < 1e-5 < 1e-3 < effect, dim.uses


# Families whose attention takes its number of heads from the weights, and the dim of the heads.
HEADS = {
    "d2": ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gptneox", "mixtral", "qwen3moe", "t5"),
    "d3": ("deepseekv3",),
    "d4": ("bert",),
    "d6": ("vit",),
}


@pytest.mark.parametrize(("dim", "name"), [(dim, name) for dim in HEADS for name in HEADS[dim]])
def test_heads_slice_as_they_mask(dim: str, name: str) -> None:
    case = captured(name)
    (heads,) = (known for known in case.dims.dims if known.name == dim)
    error, effect = slice_against_mask(case.model, case.kwargs, case.dims, heads)
    assert error < 1e-5 < 1e-3 < effect


# -- real size ------------------------------------------------------------------------------------


@cache
def llama_8b() -> GraphModule:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    with torch.device("meta"):
        model: nn.Module = LlamaForCausalLM(config)
        ids = torch.zeros(3, 17, dtype=torch.long)
    return export(model.to(torch.bfloat16).eval(), {"input_ids": ids, "use_cache": False})


def test_llama_8b_has_132_dims_in_65_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = llama_8b()
    calls = 0
    unify = Terms.unify

    def counted(terms: Terms, a: Term, b: Term) -> Term:
        nonlocal calls
        calls += 1
        return unify(terms, a, b)

    monkeypatch.setattr(Terms, "unify", counted)
    dims = couple(graph)
    assert dims.notes == ()
    # Residual, rotary half, vocabulary in and out; KV heads, group, V width and MLP of each layer.
    assert (len(dims.dims), len(dims.free())) == (4 + 4 * 32, 1 + 4 * 32)
    # Of each layer one group for attention and one for the MLP.
    assert len(dims.groups()) == 1 + 2 * 32
    assert sum(len(dim.uses) for dim in dims.dims if dim.size == 4096) == 291
    # Work is linear in the graph: on no model more than a few unifications for each node.
    assert calls < 3 * len(graph.graph.nodes)


# -- what is not known ----------------------------------------------------------------------------


@torch.library.custom_op("gacfx_test::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.flip(-1)


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class WithMystery(nn.Module):
    """Two MLPs, one of them around an operator that nobody told us about."""

    def __init__(self) -> None:
        super().__init__()
        self.known_up, self.known_down = nn.Linear(10, 14), nn.Linear(14, 10)
        self.odd_up, self.odd_down = nn.Linear(10, 22), nn.Linear(22, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.known_down(torch.relu(self.known_up(x)))
        y: Tensor = self.odd_down(mystery(self.odd_up(x)))
        return y


def test_an_unknown_operator_freezes_and_is_recorded() -> None:
    dims = couple(export(WithMystery(), {"x": torch.randn(3, 10)}))
    assert dims.notes == ("unknown operator: gacfx_test.mystery.default, at mystery",)
    frozen = {dim.size: dim.frozen for dim in dims.dims}
    # Both sides freeze: the operator may have any size written inside.
    assert dims.axes["odd_up.weight"][0] != dims.axes["odd_down.weight"][1]
    assert frozen == {14: "", 10: "output", 22: "opaque gacfx_test.mystery.default"}
