"""Small configurations: sizes by name, every kind of layer, configurations inside."""

from typing import Any

import pytest
import torch

from benchmarks.families.models import families, make
from benchmarks.families.settings import SETTINGS
from benchmarks.families.shrink import SIZES, covering, shrink, small_config


def test_sizes_become_small_and_stay_small() -> None:
    usual = {"hidden_size": 4096, "num_experts_per_tok": 1, "n_shared_experts": 0, "unknown": 512}
    assert shrink(usual) == {"hidden_size": 48}


def test_flags_are_no_sizes() -> None:
    assert "num_experts" in SIZES
    assert shrink({"num_experts": True, "hidden_size": None}) == {}


def test_special_tokens_are_in_the_vocabulary_and_not_in_texts() -> None:
    found = shrink({"eos_token_id": [7, 8], "image_token_id": 128_000, "video_token_id": 4})
    assert found == {"eos_token_id": 2, "image_token_id": 81}


def test_lists_of_layers_are_cut_to_one_of_every_kind() -> None:
    kinds = ["a", "a", "b", "a", "a", "b"]
    mlps = ["dense", *["sparse"] * 5]
    usual = {"num_hidden_layers": 6, "layer_types": kinds, "mlp_layer_types": mlps, "other": [1]}
    assert shrink(usual) == {
        "num_hidden_layers": 3,
        "layer_types": ["a", "a", "b"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    }


def test_a_model_of_one_kind_of_layer_has_two() -> None:
    assert covering([["a"] * 9], 9) == [0, 1]
    assert covering([], 1) == [0]


@pytest.mark.parametrize("name", ["llama", "deepseek_v32", "gemma3", "qwen3_5", "zamba2", "mpt"])
def test_a_tiny_model_of_a_type_reads_text(name: str) -> None:
    model = make(families()[name])
    assert sum(p.numel() for p in model.parameters()) < 200_000
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 14)[None]).logits
    assert bool(logits.isfinite().all())


def test_every_kind_of_layer_of_a_hybrid_is_there() -> None:
    found: Any = small_config("qwen3_5")
    assert set(found.text_config.layer_types) == {"linear_attention", "full_attention"}
    assert found.text_config.hidden_size == found.vision_config.hidden_size == 48


def test_the_same_seed_makes_the_same_model() -> None:
    first, second = (make(families()["gpt2"]).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert bool(first["transformer.h.0.attn.c_attn.bias"].all()), "a bias of zeros shows nothing"


def test_settings_are_for_types_that_there_are() -> None:
    assert SETTINGS.keys() <= {family.model_type for family in families().values()}
