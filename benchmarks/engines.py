"""What runs a model on one thread of a CPU, and the time of many such runs in turns.

A run is a call without arguments that gives logits. Runs of one comparison take turns in one
process, so that a busy minute meets all of them, and the time is that of the processor.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from gacfx.graph.compat import cache_argument

Run = Callable[[], Any]
Key = TypeVar("Key", bound=Hashable)
Session = Callable[[Mapping[str, Any]], Any]
"""Arrays by name -> logits [batch, tokens, vocabulary]."""


def prompt(model: Any, tokens: int) -> Tensor:
    """Random ids [1, tokens]."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (1, tokens), generator=draw)


def kept_after(model: Any, ids_1S: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [1, heads, S, numbers] of each layer, once it read the ids."""
    cache: Any = DynamicCache()
    model(ids_1S, **{str(cache_argument(model)): cache})
    return [(layer.keys, layer.values) for layer in cache.layers]


def step_inputs(ids_1T: Tensor, kept: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Inputs of an exported step: ids behind what the layers kept."""
    seen = kept[0][0].shape[2] + ids_1T.shape[1]
    past = {
        f"past_key_values.{layer}.{name}": tensor.numpy()
        for layer, pair in enumerate(kept)
        for name, tensor in zip(("key", "value"), pair, strict=True)
    }
    mask = torch.ones(1, seen, dtype=torch.long)
    return {"input_ids": ids_1T.numpy(), "attention_mask": mask.numpy(), **past}


def onnxruntime(path: Path) -> Session:
    """A graph of ONNX on one thread."""
    import onnxruntime as library

    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given)[0]


def openvino(path: Path, precision: str = "f32") -> Session:
    """A graph of ONNX or OpenVINO on one thread.

    Args:
        path: of the file.
        precision: in which it computes, ``f32`` or ``bf16``, whatever the weights are stored in.
    """
    import openvino as library

    asked = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    compiled = library.Core().compile_model(path, "CPU", asked)
    return lambda given: compiled(given)[0]


def openvino_has_bf16() -> bool:
    """OpenVINO computes in bfloat16 on this CPU."""
    import openvino as library

    return "BF16" in library.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def in_turns(runs: Mapping[Key, Run], rounds: int, warm: int = 3) -> dict[Key, list[float]]:
    """Milliseconds of the processor of each run, in the order of the rounds.

    Args:
        runs: each is called once in a round.
        rounds: that count.
        warm: rounds before them, in which engines make memory plans.
    """
    spent: dict[Key, list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for at in range(warm + rounds):
            for key, run in runs.items():
                begin = time.process_time()
                run()
                if at >= warm:
                    spent[key].append(1000 * (time.process_time() - begin))
    return spent
