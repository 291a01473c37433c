"""save_per_layer_config: the numbers of each layer in DeciLM's schema, and what it cannot say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import gacfx
from gacfx.checkpoint.per_layer_config import save_per_layer_config
from gacfx.core.decision import LowRank
from gacfx.core.pruning import Skip
from gacfx.errors import CheckpointError
from gacfx.modules.install import install_
from tests.families.narrow import attention, decision_of, mlp, plan_of
from tests.families.zoo import FAMILIES
from tests.unit.checkpoint.tiny_models import factors_for


def pruned(*which: Any, family: str = "llama") -> Any:
    model: Any = FAMILIES[family].make()
    gacfx.apply_(model, plan_of(model, *((part, make(part)) for part, make in parts(model, which))))
    return model


def parts(model: Any, which: Any) -> Any:
    return [(kind(model, "llama", layer), make) for kind, layer, make in which]


def skip(_: object) -> Skip:
    return Skip()


def test_the_numbers_of_every_layer(tmp_path: Path) -> None:
    half = tuple(range(0, 88, 2))
    model = pruned(
        (mlp, 0, lambda one: decision_of(one, half)),
        (attention, 1, skip),
        (mlp, 1, skip),
    )
    save_per_layer_config(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["block_configs"] == [
        {
            "attention": {"n_heads_in_group": 3, "no_op": False, "replace_with_linear": False},
            "ffn": {"intermediate_size": 44, "no_op": False, "replace_with_linear": False},
        },
        {
            "attention": {"n_heads_in_group": None, "no_op": True, "replace_with_linear": False},
            "ffn": {"intermediate_size": None, "no_op": True, "replace_with_linear": False},
        },
    ]
    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert config["model_type"] == "nemotron-nas"
    assert (config["num_attention_heads"], config["head_dim"]) == (6, 8)
    assert "quantization_config" not in config
    stored = load_file(tmp_path / "out" / "model.safetensors")
    layers = {name.split("layers.")[1] for name in stored if "layers." in name}
    projections = [f"self_attn.{name}_proj.weight" for name in "qkvo"]
    assert layers == {
        *(f"0.{name}" for name in projections),
        *(f"0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        *("0.input_layernorm.weight", "0.post_attention_layernorm.weight"),
    }
    assert stored["model.layers.0.mlp.up_proj.weight"].shape == (44, 48)
    assert torch.equal(
        stored["model.layers.0.mlp.down_proj.weight"], model.model.layers[0].mlp.down_proj.weight
    )


def test_key_value_heads_may_differ_where_query_heads_do_not(tmp_path: Path) -> None:
    model = pruned(
        (attention, 0, lambda one: decision_of(one, (0, 1), ((0,), (2,)))),
        (attention, 1, lambda one: decision_of(one, (1,), ((0, 1),))),
    )
    out = save_per_layer_config(model, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    ratios = [one["attention"]["n_heads_in_group"] for one in config["block_configs"]]
    assert (config["num_attention_heads"], ratios) == (2, [1, 2])


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (
            [(attention, 1, lambda one: decision_of(one, (1,)))],
            "model.layers.1: has 3 query heads and model.layers.0 6",
        ),
        ([(attention, 0, skip)], "model.layers.0: its attention is skipped"),
    ],
)
def test_what_the_schema_cannot_say(which: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_per_layer_config(pruned(*which), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_architectures_and_low_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the schema is that of Llama models"):
        save_per_layer_config(FAMILIES["qwen2"].make(), tmp_path / "out")  # type: ignore[arg-type]
    model: Any = FAMILIES["llama"].make()
    install_(model, factors_for(model, ("q_proj",), kind=LowRank))
    with pytest.raises(CheckpointError, match="q_proj: is rank 9"):
        save_per_layer_config(model, tmp_path / "out")


def test_a_tensor_that_was_written_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoils(tensors: dict[str, torch.Tensor], file: Path, **more: Any) -> None:
        name = min(tensors)
        save_file({**tensors, name: tensors[name] + 1}, file, **more)

    monkeypatch.setattr("safetensors.torch.save_file", spoils)
    with pytest.raises(CheckpointError, match=r"weight: .* is not the"):
        save_per_layer_config(pruned((mlp, 1, skip)), tmp_path / "out")
    assert not list(tmp_path.iterdir())
