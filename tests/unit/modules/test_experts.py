"""Experts one by one compute what the experts in one tensor compute, and cost what they cost."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gacfx
from gacfx.modules.experts import (
    UnpackedExperts,
    is_packed,
    needs_unpacking,
    packed_experts,
    unpack_,
    unpacked,
)
from tests import tiny
from tests.families.zoo import FAMILIES


def gpt_oss() -> Any:
    """Biases, weights as [in, out], gate and up in turns."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=16,
        max_position_embeddings=4096 * 32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GptOssForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(1))
    return model


MAKES: dict[str, Callable[[], Any]] = {
    **{name: FAMILIES[name].make for name in ("mixtral", "qwen3moe", "deepseekv3")},
    "gpt-oss": gpt_oss,
}


def ids() -> torch.Tensor:
    return torch.randint(3, 97, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", MAKES)
@torch.no_grad()
def test_logits_are_those_of_the_packed_model(family: str) -> None:
    model = MAKES[family]()
    model.set_experts_implementation("eager")
    assert packed_experts(model)
    want = model(ids(), use_cache=False).logits
    assert torch.equal(unpacked(model)(ids(), use_cache=False).logits, want)
    graph = gacfx.capture(unpacked(model))
    torch.testing.assert_close(graph(input_ids=ids(), use_cache=False).logits, want)
    other = copy.deepcopy(model)
    unpack_(other)
    assert not packed_experts(other)
    assert torch.equal(other(ids(), use_cache=False).logits, want)


@torch.no_grad()
def test_a_view_shares_its_tensors_and_leaves_the_model_alone() -> None:
    model = MAKES["mixtral"]()
    names = list(model.state_dict())
    made: Any = unpacked(model)
    assert list(model.state_dict()) == names
    assert made.lm_head.weight is model.lm_head.weight
    made.model.layers[0].mlp.experts.get_submodule("2.fc2").weight.zero_()
    assert not model.model.layers[0].mlp.experts.down_proj[2].any()


def test_unpacking_in_place_frees_the_tensors() -> None:
    model = MAKES["mixtral"]()
    packed = {p.data_ptr() for m in packed_experts(model).values() for p in m.parameters()}
    unpack_(model)
    assert packed.isdisjoint(p.data_ptr() for p in model.parameters())
    assert all(p.is_contiguous() for p in model.parameters())


def test_a_model_without_experts_is_itself() -> None:
    model = tiny.llama()
    assert unpacked(model) is model
    assert not needs_unpacking(model, ["model.layers.0.mlp.up_proj"])


@pytest.mark.parametrize("family", ["mixtral", "deepseekv3"])
def test_an_expert_counts_the_tokens_that_it_sees(family: str) -> None:
    model = MAKES[family]()
    packed = gacfx.inspect(model, batch=2, seq=32)
    apart = gacfx.inspect(unpacked(model), batch=2, seq=32)
    assert apart.flops == packed.flops
    sizes = {row.sizes for row in apart.rows if ".experts." in row.name and "fc1" in row.name}
    assert {size.split(" x ")[0] for size in sizes} == {"32"}, "two of four experts see a token"


class Packed(nn.Module):
    """As transformers has them, without a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts, self.has_gate, self.has_bias, self.is_transposed = 3, False, False, False
        self.up_proj = nn.Parameter(torch.randn(3, 10, 6))
        self.down_proj = nn.Parameter(torch.randn(3, 6, 10))
        self.act_fn = nn.ReLU()


@torch.no_grad()
def test_experts_without_a_gate_and_with_unequal_shares() -> None:
    packed = Packed()
    hidden, chosen = torch.randn(5, 6), torch.tensor([[0, 2], [2, 0], [0, 2], [3, 0], [2, 3]])
    shares = torch.rand(5, 2)
    want = torch.zeros(5, 6)
    for t in range(5):
        for k in range(2):
            e = int(chosen[t, k])
            if e < 3:  # number 3 is an expert of another device
                made = packed.down_proj[e] @ torch.relu(packed.up_proj[e] @ hidden[t])
                want[t] += shares[t, k] * made
    got = UnpackedExperts.of(packed, copies=True)(hidden, chosen, shares)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("odd", ["scale", "flat", "norm"])
def test_experts_of_other_kinds_are_left_packed(odd: str) -> None:
    packed: Any = Packed()
    assert is_packed(packed)
    if odd == "scale":
        packed.scale = nn.Parameter(torch.ones(3))
    elif odd == "flat":
        packed.up_proj = nn.Parameter(torch.randn(30, 6))
    else:
        packed.post_expert_norm = nn.LayerNorm(6)
    assert not is_packed(packed)
