"""How fast is a compressed model in torch, ONNX Runtime and OpenVINO, on one thread of a CPU?

    python -m benchmarks.exports

The demo's model, dense and with 20 % of its linears removed, reads a prompt, and decodes one token
behind it with a cache. All engines take turns in one process, so that ratios mean something on a
busy machine; the time is that of the processor, and the median of all rounds.
"""

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

import gacfx
from benchmarks import record
from benchmarks.engines import (
    Run,
    Session,
    in_turns,
    kept_after,
    onnxruntime,
    openvino,
    prompt,
    step_inputs,
)
from gacfx.demo import MODEL
from gacfx.graph.compat import cache_argument

PROMPT, ROUNDS = 200, 40


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


def prefills(model: Any, folder: Path) -> dict[str, Run]:
    """Engine -> one forward of the prompt, without a cache."""
    ids = prompt(model, PROMPT)
    for to in ("pt2", "onnx", "openvino"):
        gacfx.export(model, folder / to, to=to)
    program = torch.export.load(folder / "pt2" / "model.pt2").module()
    given = {"input_ids": ids.numpy()}
    session, compiled = sessions(folder / "onnx", folder / "openvino")
    return {
        "torch eager": lambda: model(ids, use_cache=False),
        "pt2": lambda: program(input_ids=ids),
        "onnxruntime": lambda: session(given),
        "openvino": lambda: compiled(given),
    }


def steps(model: Any, folder: Path) -> dict[str, Run]:
    """Engine -> one token behind the prompt, whose keys and values are there."""
    ids = prompt(model, PROMPT)
    for to in ("onnx", "openvino"):
        gacfx.export(model, folder / f"{to}-cache", to=to, cache=True)
    kept, called = kept_after(model, ids), str(cache_argument(model))
    given = step_inputs(ids[:, -1:], kept)
    session, compiled = sessions(folder / "onnx-cache", folder / "openvino-cache")

    def eager() -> object:
        again: Any = DynamicCache()
        for layer, pair in enumerate(kept):
            again.update(*pair, layer)
        return model(ids[:, -1:], **{called: again})

    return {
        "torch eager": eager,
        "onnxruntime": lambda: session(given),
        "openvino": lambda: compiled(given),
    }


def sessions(onnx: Path, xml: Path) -> tuple[Session, Session]:
    """Both exported folders, opened."""
    return onnxruntime(onnx / "model.onnx"), openvino(xml / "openvino_model.xml")


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
        spent_in = in_turns(runs, ROUNDS)
    found = {key: statistics.median(times) for key, times in spent_in.items()}
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
