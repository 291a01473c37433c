"""Coupled structures of the whole zoo: what they are, and that slicing them is masking them."""

from functools import cache

import numpy as np
import pytest

from gacfx.core.structures import Structure
from gacfx.coupling.blocks import block_of
from gacfx.coupling.structures import Coupling, analyse, coupled_structures
from gacfx.coupling.terms import find, resized
from gacfx.graph.ops import Op, op_of, operands, weight_name
from tests.families.slicing import difference, prune_structure
from tests.families.test_families_coupling import captured
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few


@cache
def coupling(name: str) -> Coupling:
    return analyse(captured(name).graph)


def structures(name: str) -> dict[str, Structure]:
    return {each.name: each for each in coupling(name).structures}


def line(structure: Structure) -> str:
    """A structure on one line; what closes it stands behind the arrow."""
    before = [_inside(m.module, structure) for m in structure.members if not m.closes]
    closing = [_inside(m.module, structure) for m in structure.members if m.closes]
    size = f"{structure.units}x{structure.heads}" if structure.kind == "heads" else structure.units
    text = f"{structure.name} {structure.kind} {size}: {' '.join(before)} > {' '.join(closing)}"
    if structure.refused:
        assert structure.keeps_block == structure.refused
        return f"{text} | {structure.refused}"
    return f"{text} || {structure.keeps_block}" if structure.keeps_block else text


def _inside(module: str, structure: Structure) -> str:
    return module.removeprefix(f"{block_of(structure.modules)}.")


LLAMA = """
    model.layers.0.self_attn heads 2x3: q_proj k_proj v_proj > o_proj
    model.layers.0.mlp width 88: gate_proj up_proj > down_proj
"""
MOE = """
    model.layers.0.self_attn heads 2x3: q_proj k_proj v_proj > o_proj
    model.layers.0.mlp.experts width {}: gate_up_proj > down_proj | experts in one tensor, \
planned one by one
"""
LATENT = "its channels are also those of"
BIAS = "its heads are also those of relative_attention_bias.weight, which is no Linear"

FIRST_LAYER = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA,
    "gemma3": LLAMA,
    "phi3": """
        model.layers.0.self_attn heads 2x3: qkv_proj > o_proj
        model.layers.0.mlp width 88: gate_up_proj > down_proj
    """,
    "gpt2": """
        transformer.h.0.attn heads 6x1: c_attn > c_proj
        transformer.h.0.mlp width 88: c_fc > c_proj
    """,
    "opt": """
        model.decoder.layers.0.self_attn heads 6x1: q_proj k_proj v_proj > out_proj
        model.decoder.layers.0.fc1+fc2 width 88: fc1 > fc2 || it has no module of its own
    """,
    "gptneox": """
        gpt_neox.layers.0.attention heads 6x1: query_key_value > dense
        gpt_neox.layers.0.mlp width 88: dense_h_to_4h > dense_4h_to_h
    """,
    "bert": """
        bert.encoder.layer.0.attention heads 6x1: self.query self.key self.value > output.dense ||
            its module adds to the residual stream itself
        bert.encoder.layer.0.intermediate.dense+output.dense width 88:
            intermediate.dense > output.dense || it has no module of its own
    """,
    "mixtral": MOE.format(88),
    "qwen3moe": MOE.format(40),
    "t5": f"""
        encoder.block.0.layer.0.SelfAttention heads 6x1: q k v > o | {BIAS}
        encoder.block.0.layer.1.DenseReluDense width 88: wi_0 wi_1 > wo
        decoder.block.0.layer.0.SelfAttention heads 6x1: q k v > o | {BIAS}
        decoder.block.0.layer.1.EncDecAttention heads 6x1: q k v > o | cross attention
        decoder.block.0.layer.2.DenseReluDense width 88: wi_0 wi_1 > wo
    """,
    "vit": """
        vit.layers.0.attention heads 6x1: q_proj k_proj v_proj > o_proj
        vit.layers.0.mlp width 88: fc1 > fc2
    """,
    "deepseekv3": f"""
        model.layers.0.self_attn.q_a_proj+q_b_proj width 20:
            q_a_proj > q_b_proj |
            {LATENT} q_a_layernorm.weight, which is no Linear
        model.layers.0.self_attn.kv_a_proj_with_mqa+kv_b_proj width 22:
            kv_a_proj_with_mqa > kv_b_proj |
            {LATENT} kv_a_layernorm.weight, which is no Linear
        model.layers.0.self_attn heads 6x1: q_b_proj kv_b_proj > o_proj ||
            its module also holds q_a_proj, kv_a_proj_with_mqa
        model.layers.0.mlp width 88: gate_proj up_proj > down_proj
    """,
}
# What the second layer has otherwise.
SECOND_LAYER = {
    "t5": """
        encoder.block.1.layer.0.SelfAttention heads 6x1: q k v > o |
            its heads are also those of encoder.block.0.layer.0.SelfAttention.q
        encoder.block.1.layer.1.DenseReluDense width 88: wi_0 wi_1 > wo
        decoder.block.1.layer.0.SelfAttention heads 6x1: q k v > o |
            its heads are also those of decoder.block.0.layer.0.SelfAttention.q
        decoder.block.1.layer.1.EncDecAttention heads 6x1: q k v > o | cross attention
        decoder.block.1.layer.2.DenseReluDense width 88: wi_0 wi_1 > wo
    """,
    "deepseekv3": FIRST_LAYER["deepseekv3"]
    .replace(".0.", ".1.")
    .replace(
        "model.layers.1.mlp width 88: gate_proj up_proj > down_proj",
        """model.layers.1.mlp.experts width 40:
            gate_up_proj > down_proj | experts in one tensor, planned one by one
        model.layers.1.mlp.shared_experts width 40: gate_proj up_proj > down_proj""",
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_structures_of_a_family(name: str) -> None:
    first = FIRST_LAYER[name]
    second = SECOND_LAYER.get(name, first.replace(".0.", ".1."))
    found = sorted(line(each) for each in structures(name).values())
    assert " ".join(found).split() == " ".join(sorted(_lines(first) + _lines(second))).split()


def _lines(text: str) -> list[str]:
    """Its lines, those that go on indented put together."""
    rows: list[str] = []
    for row in text.strip("\n").splitlines():
        if row.strip() and row.startswith(" " * 12):
            rows[-1] += f" {row.strip()}"
        elif row.strip():
            rows.append(row.strip())
    return rows


@pytest.mark.parametrize("name", FAMILIES)
def test_structures_come_in_the_order_in_which_the_model_closes_them(name: str) -> None:
    found, graph = structures(name), captured(name).graph.graph
    weights = [weight_name(operands(node)[1]) for node in graph.nodes if op_of(node) is not None]
    modules = [str(weight).removesuffix(".weight") for weight in weights]
    closed = [modules.index(each.closing.module) for each in found.values()]
    assert closed == sorted(closed)
    assert [line(each) for each in coupled_structures(captured(name).graph)] == [
        line(each) for each in found.values()
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_are_as_long_as_the_axes(name: str) -> None:
    model = captured(name).model
    for structure in structures(name).values():
        for member in structure.members:
            if "experts are not" in structure.refused or ".experts." in member.module:
                continue
            weight = model.get_parameter(f"{member.module}.weight")
            shape = tuple(weight.shape)
            if type(model.get_submodule(member.module)).__name__ == "Conv1D":
                shape = shape[::-1]
            assert (member.rows, member.columns) == shape
            for along, size in ((member.outputs, shape[0]), (member.inputs, shape[1])):
                assert along is None or len(along.units) == len(along.heads) == size


def whole(structure: Structure) -> tuple[int, ...]:
    return tuple(range(structure.units))


@pytest.mark.parametrize("name", few(FAMILIES, *CORNERS))
def test_slicing_a_width_is_masking_it(name: str) -> None:
    case = captured(name)
    widths = [s for s in structures(name).values() if s.kind == "width" and not s.refused]
    for structure in widths:
        count = structure.units * 7 // 10 // 8 * 8
        kept = np.sort(np.random.default_rng(0).permutation(structure.units)[:count])
        sliced, masked = prune_structure(case.model, structure, kept.tolist())
        assert difference(sliced, masked, case.kwargs) < 1e-6
        assert difference(masked, case.model, case.kwargs) > 1e-4, "nothing was pruned"
    # Only families of experts have layers without a width that may be pruned.
    assert widths or name in ("mixtral", "qwen3moe")


# Families whose attention takes its number of heads from the weights.
BY_WEIGHTS = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gptneox", "bert", "vit", "mixtral")
GROUPED = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "mixtral", "qwen3moe")


@pytest.mark.parametrize("name", few([*BY_WEIGHTS, "qwen3moe", "deepseekv3"], *CORNERS))
def test_slicing_key_value_heads_is_masking_them(name: str) -> None:
    case = captured(name)
    for structure in structures(name).values():
        if structure.kind == "heads":
            kept = whole(structure)[1:]
            sliced, masked = prune_structure(case.model, structure, kept)
            assert difference(sliced, masked, case.kwargs) < 1e-6
            assert difference(masked, case.model, case.kwargs) > 1e-4


@pytest.mark.parametrize("name", GROUPED)
def test_slicing_query_heads_of_every_group_is_masking_them(name: str) -> None:
    case = captured(name)
    for structure in structures(name).values():
        if structure.kind == "heads":
            sliced, masked = prune_structure(case.model, structure, (0, 1), ((0, 2), (1, 2)))
            sliced.get_submodule(structure.name).num_key_value_groups = 2  # type: ignore[assignment]
            assert difference(sliced, masked, case.kwargs) < 1e-6
            assert difference(masked, case.model, case.kwargs) > 1e-4


def test_the_sizes_of_a_pruned_graph_are_read_from_its_terms() -> None:
    """What a pass that rewrites the graph asks: the axes of every node, with fewer units."""
    found, graph = coupling("llama"), captured("llama").graph
    attention = next(node for node in graph.graph.nodes if op_of(node) is Op.ATTENTION)
    case = next(c for c in found.coupled if c.structure.name == "model.layers.0.self_attn")
    assert case.unit is not None and case.head is not None
    axes = found.interpreter.values[attention]
    assert isinstance(axes, tuple)
    fewer = {find(case.unit): 1, find(case.head): 2}
    assert [resized(axis, {}) for axis in axes] == [3, 6, 17, 8]
    assert [resized(axis, fewer) for axis in axes] == [3, 2, 17, 8]
