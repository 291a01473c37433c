"""Blocks of other programs in a configuration: method, bits, and which modules they leave alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from gacfx.core.config_json import METHOD
from gacfx.core.stored_as import StoredAs, stored_as

BLOCKS: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq, 4 bits"),
    "awq": ({"quant_method": "awq", "w_bit": 4, "zero_point": True}, "awq, 4 bits"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8, 8 bits"),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fbgemm_fp8, 8 bits"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4, 4 bits"),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False},
        "bitsandbytes, 4 bits",
    ),
    "bitsandbytes without a name": ({"load_in_8bit": True}, "bitsandbytes, 8 bits"),
    "compressed-tensors": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "int"},
                    "input_activations": {"num_bits": 8},
                }
            },
        },
        "compressed-tensors, 4 bits",
    ),
    "two widths": (
        {"quant_method": "quark", "layers": {"a": {"bits": 4}, "b": {"bits": 8}, "c": {"bits": 4}}},
        "quark, 4 and 8 bits",
    ),
    "unknown": ({"quant_method": "new-method"}, "new-method"),
    "no text": ({"quant_method": 7, "bits": "many"}, "7"),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("where", ["table", "object", "part", "older key"])
def test_a_declared_format_is_told(name: str, where: str) -> None:
    block, told = BLOCKS[name]
    given: Any = SimpleNamespace(**block) if where == "object" else block
    key = "compression_config" if where == "older key" else "quantization_config"
    config = SimpleNamespace(**{key: given})
    if where == "part":
        config = SimpleNamespace(text_config=config)
    assert str(stored_as(config)) == told


@pytest.mark.parametrize(
    "config",
    [
        SimpleNamespace(),
        None,
        SimpleNamespace(quantization_config=None),
        SimpleNamespace(quantization_config={}),
        SimpleNamespace(quantization_config={"quant_method": METHOD, "modules": {}}),
        SimpleNamespace(quantization_config={"ranks": {}}),
        SimpleNamespace(quantization_config="fp8"),
    ],
)
def test_what_is_not_quantized_by_others_is_told_as_nothing(config: object) -> None:
    assert stored_as(config) is None


@pytest.mark.parametrize(
    ("pattern", "module", "covered"),
    [
        ("gate", "model.layers.0.mlp.gate", False),
        ("gate", "model.layers.0.mlp.gate_proj", True),
        ("model.layers.0", "model.layers.0.mlp.up_proj", False),
        ("model.layers.1", "model.layers.10.mlp.up_proj", True),
        (r"re:.*self_attn\.[qk]_proj", "model.layers.0.self_attn.q_proj", False),
        (r"re:.*self_attn\.[qk]_proj", "model.layers.0.self_attn.o_proj", True),
        ("model.layers.0.self_attn*", "model.layers.0.self_attn.q_proj", False),
        ("*.mlp", "model.layers.0.mlp.up_proj", False),
        ("*.mlp", "model.layers.0.mlp_2.up_proj", True),
        ("re:(", "model.layers.0.self_attn.o_proj", True),
        ("lm_head", "lm_head", False),
    ],
)
def test_modules_that_are_left_alone(pattern: str, module: str, covered: bool) -> None:
    assert StoredAs("fp8", (8,), (pattern,)).covers(module) is covered


@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignore", "llm_int8_skip_modules"])
def test_lists_of_modules_and_the_head(key: str) -> None:
    block = {"quant_method": "fp8", key: ["mlp.gate"]}
    found = stored_as(SimpleNamespace(quantization_config=block))
    assert found is not None
    assert not found.covers("model.layers.3.mlp.gate") and not found.covers("lm_head")
    whole = stored_as(SimpleNamespace(quantization_config={**block, "lm_head": True}))
    assert whole is not None and whole.covers("lm_head")
