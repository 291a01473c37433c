"""A Llama with random weights as a checkpoint folder, written layer by layer."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gacfx import pipelines
from gacfx.calibration.sizes import Sizes, sizes_of
from gacfx.graph.pipeline import Pipeline
from gacfx.tracing.export import export_model
from gacfx.tracing.skeleton import skeleton

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 258,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    "tinyllama-1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
    },
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "llama-3-70b": {
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "llama-3.1-405b": {
        "hidden_size": 16_384,
        "intermediate_size": 53_248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
}
"""Source: their config.json."""
DEVIATION = 0.02
"""Of the weights, as transformers draws them."""


def config_of(shape: dict[str, Any], positions: int = 2048) -> Any:
    """The configuration of a shape."""
    from transformers import LlamaConfig

    rest: dict[str, Any] = {
        "max_position_embeddings": positions,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return LlamaConfig(**shape, **rest, architectures=["LlamaForCausalLM"])


def read_sizes(
    shape: dict[str, Any], dtype: torch.dtype = torch.bfloat16, both_sides: tuple[str, ...] = ()
) -> Sizes:
    """Sizes of a shape, of which two layers are read: all are alike.

    Args:
        shape: of :data:`SHAPES`.
        dtype: of the weights.
        both_sides: last names of the modules with second moments of both sides.
    """
    model = skeleton(config_of({**shape, "num_hidden_layers": 2}), dtype)
    graph = export_model(model)
    Pipeline.parse(pipelines.SELECT).bind(skip=()).run(graph)
    both = [name for name, _ in model.named_modules() if name.endswith(both_sides)]
    return sizes_of(model, graph, both if both_sides else ()).deeper(shape["num_hidden_layers"])


def write_checkpoint(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Write the folder: a file for each layer, and one for what is outside of them.

    Args:
        folder: to be made.
        config: of a Llama.
        dtype: of the weights.
        device: where they are drawn.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config.dtype = dtype
    config.save_pretrained(folder)
    parts = defaultdict[str, list[str]](list)
    made = skeleton(config, dtype)
    shapes = dict(made.named_parameters())
    for name in shapes:
        parts[".".join(name.split(".")[:3]) if ".layers." in name else ""].append(name)
    index: dict[str, str] = {}
    random = torch.Generator(device).manual_seed(0)
    for number, names in enumerate(parts.values(), 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        tensors = {name: _drawn(shapes[name], random) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in shapes.values())
    said = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(said), encoding="utf-8")


def _drawn(like: Tensor, random: torch.Generator) -> Tensor:
    """Ones for a norm, else normal numbers, on the CPU."""
    if like.ndim < 2:
        return torch.ones(like.shape, dtype=like.dtype)
    drawn = torch.empty(like.shape, dtype=like.dtype, device=random.device)
    return drawn.normal_(0, DEVIATION, generator=random).cpu()
