"""A pruned Llama as a folder with numbers for each layer, in the schema of DeciLM and Nemotron-NAS.

    "block_configs": [{"attention": {"no_op": false, "n_heads_in_group": 3, ...},
                       "ffn": {"no_op": false, "intermediate_size": 11008, ...}}, ...]

Engines read it under the architecture DeciLMForCausalLM (vLLM: models/nemotron_nas.py; Puzzle,
arXiv 2411.19146). It is a structure that was written after that code and was run in none of
these engines. transformers has no such model: they need the configuration class that published
checkpoints of this architecture bring along, and gacfx writes no code.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.hf import check_unquantized
from gacfx.checkpoint.layers import Layer, layers_of
from gacfx.checkpoint.written import compare
from gacfx.core.files.atomic import making, replacing_folder
from gacfx.core.files.targets import check_folder, writing
from gacfx.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURE = "DeciLMForCausalLM"
MODEL_TYPE = "nemotron-nas"
_GONE = {"attention": ("self_attn", "input_layernorm"), "mlp": ("mlp", "post_attention_layernorm")}
"""Parts of a layer that such a model has not where it has no attention or MLP."""


def save_per_layer_config(
    model: "PreTrainedModel",
    folder: str | Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Path:
    """Writes config.json with ``block_configs``, and the weights under the names of a Llama.

    Widths may differ from layer to layer, and blocks may be skipped. Key-value heads may differ
    too, but the number of query heads is one for all layers, and the first attention stays.

    Args:
        model: a pruned Llama; it is left as it is.
        folder: to make.
        tokenizer: saved beside it; None leaves it out.
        overwrite: replace an existing checkpoint folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: another architecture, low ranks, or what the schema cannot say; names the
            layer. Or the folder exists and cannot be written.
    """
    from safetensors.torch import save_file

    out = Path(folder).expanduser()
    check_unquantized(model)
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")
    layers = layers_of(model)
    config = {**_config(model), **_numbers(model, layers)}
    tensors = _tensors(model, layers)
    out = out.resolve()
    with writing(out), making(out.parent), replacing_folder(out, overwrite=overwrite) as made:
        save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
        compare(tensors, made / "model.safetensors")
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (made / "config.json").write_text(text, encoding="utf-8")
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.to_json_file(made / "generation_config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        write_checksums(made)
    return out


def block_configs(layers: list[Layer]) -> list[dict[str, Any]]:
    """The table of a configuration, with an entry for each layer."""
    return [
        {
            "attention": {
                "n_heads_in_group": None if one.counts is None else _ratio(one),
                "no_op": one.counts is None,
                "replace_with_linear": False,
            },
            "ffn": {
                "intermediate_size": one.width,
                "no_op": one.width is None,
                "replace_with_linear": False,
            },
        }
        for one in layers
    ]


def _ratio(layer: Layer) -> int:
    assert layer.counts is not None
    return layer.counts.heads // layer.counts.groups


def _config(model: "PreTrainedModel") -> dict[str, Any]:
    """The model's own configuration, once it is found to be that of a Llama."""
    config = model.config
    if config.model_type != "llama":
        raise CheckpointError(
            f"{type(model).__name__}: the schema is that of Llama models, and this is "
            f"{config.model_type}; take a plain folder, or keep the gacfx checkpoint"
        )
    made: dict[str, Any] = config.to_dict()
    made.pop("quantization_config", None)
    return made


def _numbers(model: "PreTrainedModel", layers: list[Layer]) -> dict[str, Any]:
    """What the configuration says instead.

    Raises:
        CheckpointError: names what the schema cannot say.
    """
    for layer in layers:
        for module, decision in layer.factored.items():
            raise CheckpointError(
                f"{module}: is {decision}, and the schema has dense weights only; keep the gacfx "
                "checkpoint, or prune without low ranks and pivots"
            )
    if layers[0].counts is None:
        raise CheckpointError(
            f"{layers[0].name}: its attention is skipped, and such a model begins with one; keep "
            "the first attention"
        )
    heads = layers[0].counts.heads
    for layer in layers:
        if layer.counts is not None and layer.counts.heads != heads:
            raise CheckpointError(
                f"{layer.name}: has {layer.counts.heads} query heads and {layers[0].name} {heads}; "
                "the schema has one number of query heads for all layers"
            )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "block_configs": block_configs(layers),
        "num_attention_heads": heads,
        "num_key_value_heads": None,
        "head_dim": layers[0].head_dim,
        "intermediate_size": None,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def _tensors(model: "PreTrainedModel", layers: list[Layer]) -> dict[str, Tensor]:
    """The weights, without those of what is skipped; tied ones once."""
    gone = [
        f"{layer.name}.{part}."
        for layer in layers
        for what, parts in _GONE.items()
        if getattr(layer, what) == "skip"
        for part in parts
    ]
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CheckpointError("the model has no values (meta device); there is nothing to save")
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if not name.startswith(tuple(gone))
    }
