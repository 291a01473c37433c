"""Layers of different kinds in one list: by layer they are the whole, or it is said why not."""

from typing import Any

import pytest
import torch

from gacfx.calibration.gather import NotByLayer, gather, gather_texts
from gacfx.core.store import MemoryStore
from tests.families.test_families_by_layer import assert_equal, corpus, targets_of
from tests.families.zoo import VOCAB

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = ["sliding_attention", "full_attention"] * 2


HYBRIDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"head_dim": 12, "sliding_window": 16, "layer_types": KINDS},
    ),
    "lfm2": (
        "Lfm2Config",
        "Lfm2ForCausalLM",
        {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    ),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "qwen3next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        {
            "head_dim": 12,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 12,
            "linear_value_head_dim": 12,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 40,
        },
    ),
}
"""Name -> (configuration, model, what makes its layers differ)."""
ZAMBA: dict[str, Any] = {
    "mamba_d_state": 8,
    "n_mamba_heads": 8,
    "mamba_headdim": 12,
    "layers_block_type": ["mamba", "hybrid"] * 2,
}


def make(config: str, model: str, more: dict[str, Any]) -> Any:
    """A random model in eval mode."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = getattr(transformers, model)(getattr(transformers, config)(**SIZES, **more)).eval()
    if hasattr(found.config, "num_experts_per_tok"):
        found.set_experts_implementation("grouped_mm")  # eager ones cannot be exported
    return found


@pytest.mark.parametrize("name", HYBRIDS)
def test_layers_of_several_kinds_are_the_whole(name: str) -> None:
    model = make(*HYBRIDS[name])
    kinds = {frozenset(dict(layer.named_modules())) for layer in model.model.layers}
    assert len(kinds) > 1 or len({*model.config.layer_types}) > 1
    names = targets_of(model)
    (found,) = gather_texts(model, (corpus(0),), names, store=MemoryStore())
    assert_equal(gather(model, corpus(0), names), found, 0.0)


def test_layers_that_are_given_more_are_calibrated_whole_and_it_is_said() -> None:
    # Every hybrid layer of Zamba2 is given the embeddings, too.
    model = make("Zamba2Config", "Zamba2ForCausalLM", ZAMBA)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith("out_proj")
    ]
    with pytest.warns(NotByLayer, match=r"model\.layers\.1: .* needs more than its input"):
        (found,) = gather_texts(model, (corpus(0),), names, store=MemoryStore())
    assert_equal(gather(model, corpus(0), names), found, 0.0)
