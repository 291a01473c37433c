"""How fast is a compressed model in torch, ONNX Runtime and OpenVINO, on one thread of a CPU?

    python -m benchmarks.exports

The demo's model, dense and with 20 % of its linears removed, reads a prompt, and decodes one token
behind it with a cache. All engines take turns in one process, so that ratios mean something on a
busy machine; the time is that of the processor, and the median of all rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

import gacfx
from benchmarks import record
from gacfx.demo import MODEL
from gacfx.graph.compat import cache_argument

PROMPT, ROUNDS = 200, 40

Key = tuple[str, str, str]
"""Model, workload, engine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One engine with one model at one workload."""

    model: str
    workload: str
    engine: str
    milliseconds: float
    of_eager: float
    """Its time as a share of that of eager torch with the same model."""
    of_dense: float
    """As a share of that of the dense model in the same engine."""


def models() -> dict[str, Any]:
    """The dense model and the compressed one, in float32."""
    dense, tokenizer = gacfx.load(MODEL, dtype=torch.float32)
    model, _ = gacfx.load(MODEL, dtype=torch.float32)
    text = MODEL / "calibration.jsonl"
    gacfx.compress(model, tokenizer, calibration=text, calibration_tokens="10k", ratio=0.2)
    return {"dense": dense, "compressed": model}


def prefills(model: Any, folder: Path) -> dict[str, Callable[[], object]]:
    """Engine -> one forward of the prompt, without a cache."""
    ids = prompt(model)
    for to in ("pt2", "onnx", "openvino"):
        gacfx.export(model, folder / to, to=to)
    program = torch.export.load(folder / "pt2" / "model.pt2").module()
    given = {"input_ids": ids.numpy()}
    session, compiled = ort(folder / "onnx"), openvino(folder / "openvino")
    return {
        "torch eager": lambda: model(ids, use_cache=False),
        "pt2": lambda: program(input_ids=ids),
        "onnxruntime": lambda: session.run(None, given),
        "openvino": lambda: compiled(given),
    }


def steps(model: Any, folder: Path) -> dict[str, Callable[[], object]]:
    """Engine -> one token behind the prompt, whose keys and values are there."""
    ids = prompt(model)
    for to in ("onnx", "openvino"):
        gacfx.export(model, folder / f"{to}-cache", to=to, cache=True)
    cache: Any = DynamicCache()
    called = str(cache_argument(model))
    model(ids, **{called: cache})
    kept = [(layer.keys, layer.values) for layer in cache.layers]
    given = {
        f"past_key_values.{layer}.{name}": tensor.numpy()
        for layer, pair in enumerate(kept)
        for name, tensor in zip(("key", "value"), pair, strict=True)
    }
    given |= {"input_ids": ids[:, -1:].numpy()}
    given |= {"attention_mask": torch.ones(1, PROMPT + 1, dtype=torch.long).numpy()}
    session, compiled = ort(folder / "onnx-cache"), openvino(folder / "openvino-cache")

    def eager() -> object:
        again = DynamicCache()
        for layer, pair in enumerate(kept):
            again.update(*pair, layer)
        return model(ids[:, -1:], **{called: again})

    return {
        "torch eager": eager,
        "onnxruntime": lambda: session.run(None, given),
        "openvino": lambda: compiled(given),
    }


def prompt(model: Any) -> torch.Tensor:
    """Random ids [1, PROMPT]."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (1, PROMPT), generator=draw)


def ort(folder: Path) -> Any:
    """A session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = folder / "model.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino(folder: Path) -> Any:
    """A compiled graph in float32 on one thread."""
    import openvino as library

    asked = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return library.Core().compile_model(folder / "openvino_model.xml", "CPU", asked)


def measure(runs: dict[Key, Callable[[], object]]) -> dict[Key, float]:
    """Median milliseconds of each, in turns."""
    spent: dict[Key, list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for at in range(ROUNDS + 3):
            for key, run in runs.items():
                begin = time.process_time()
                run()
                if at >= 3:  # the first ones make memory plans
                    spent[key].append(time.process_time() - begin)
    return {key: 1000 * statistics.median(times) for key, times in spent.items()}


def main() -> None:
    """Print and write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made_of = models()
        params = {name: model.num_parameters() for name, model in made_of.items()}
        runs = {
            (name, workload, engine): run
            for name, model in made_of.items()
            for workload, made in (("prefill", prefills), ("decode", steps))
            for engine, run in made(model, Path(folder) / name).items()
        }
        found = measure(runs)
    rows = [
        Row(
            model=name,
            workload=workload,
            engine=engine,
            milliseconds=round(spent, 3),
            of_eager=round(spent / found[name, workload, "torch eager"], 2),
            of_dense=round(spent / found["dense", workload, engine], 2),
        )
        for (name, workload, engine), spent in found.items()
    ]
    for row in rows:
        print(
            f"{row.model:10} {row.workload:7} {row.engine:12} {row.milliseconds:8.2f} ms  "
            f"{row.of_eager:5.2f} of eager  {row.of_dense:5.2f} of dense"
        )
    settings = {"prompt": PROMPT, "rounds": ROUNDS, "threads": 1, "params": params}
    print(record.write("exports", {**settings, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
