"""How much faster is a compressed model on one thread of a CPU, engine by engine?

    python -m benchmarks.latency

    dense       the model as it is
    unaligned   a pair for each weight, with the ranks that SVD-LLM takes, such as 819 and 1310
    aligned     GAC-v2's plan under the same budget: multiples of 8 around these
    pivots      a pivot for each weight, of a multiple of 8, with as many parameters at most

They read a prompt, and decode one token behind it with a cache, in eager torch, under inductor, in
ONNX Runtime and in OpenVINO, in float32 and, where the engine can, in bfloat16. Engines that are
not installed are left out.

Time depends on shapes alone, so weights are random, and nothing here says anything about quality. A
few layers stand for a model, under a head of 1,024 tokens. Every weight of them is compressed;
plans from calibration leave some dense, and have fewer products. Before runs are timed, their
logits are compared with those of eager torch in float32.
"""

import argparse
import copy
import gc
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import gacfx
from benchmarks import engines, record
from benchmarks.engines import Run
from benchmarks.latency_models import (
    RATIO,
    SEED,
    SUBJECTS,
    VARIANTS,
    Subject,
    Variant,
    models_of,
)
from gacfx.bench.steps import make_step, random_tokens
from gacfx.core.sites import Workload
from gacfx.hardware.measure.interleave import median_interval

PROMPT = 256
ROUNDS = {"prefill": 7, "decode": 40}
ENGINES = ("torch eager", "inductor", "onnxruntime", "openvino")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_DIFFERENCE = {"fp32": 1e-3, "bf16": 1e-1}
"""Of a logit from eager torch in float32, as a share of the largest one."""
NO_BF16 = "has no products in bfloat16 on this CPU"


@dataclass(frozen=True, slots=True)
class Row:
    """One variant at one workload in one engine."""

    subject: str
    variant: str
    workload: str
    engine: str
    dtype: str
    milliseconds: float
    """Of the processor; median of the rounds."""
    of_dense: float
    """To the dense model in the same engine and round, median."""
    between: tuple[float, float]
    """What the median ratio lies between, at a confidence of 95 %."""
    difference: float
    """Largest, of a logit from eager torch in float32, as a share of the largest logit."""

    @property
    def right(self) -> bool:
        """It computes what eager torch computes."""
        return self.difference <= MOST_DIFFERENCE[self.dtype]


Key = tuple[str, str, str, str]
"""Variant, workload, engine, dtype."""


def torch_runs(model: Any, *, compiled: bool) -> dict[str, Run]:
    """Workload -> run in torch, eager or under inductor."""
    execution: Any = "compiled" if compiled else "eager"
    work = Workload(1, PROMPT, "decode", execution)
    ids = random_tokens(model, work, SEED)
    called = torch.compile(model, dynamic=False) if compiled else model
    return {
        "prefill": lambda: called(input_ids=ids, use_cache=False).logits,
        "decode": make_step(model, work, SEED),
    }


def graph_runs(
    model: Any, folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, str, str, Run]]:
    """(workload, engine, dtype, run) of one exported graph with a cache, empty for the prompt."""
    gacfx.export(model, folder, to="onnx", cache=True)
    path = folder / "model.onnx"
    opened = {}
    if "onnxruntime" in names:
        opened["onnxruntime", "fp32"] = engines.onnxruntime(path)
    if "openvino" in names:
        opened["openvino", "fp32"] = engines.openvino(path)
        if engines.openvino_has_bf16():
            opened["openvino", "bf16"] = engines.openvino(path, "bf16")
    ids = random_tokens(model, Workload(1, PROMPT), SEED)
    kept = engines.kept_after(model, ids)
    empty = [(keys[:, :, :0], values[:, :, :0]) for keys, values in kept]
    given = {
        "prefill": engines.step_inputs(ids, empty),
        "decode": engines.step_inputs(ids[:, -1:], kept),
    }
    for (engine, dtype), session in opened.items():
        for workload, inputs in given.items():
            yield workload, engine, dtype, partial(session, inputs)


def runs_of(models: Mapping[str, Any], folder: Path, names: Sequence[str]) -> dict[Key, Run]:
    """All runs, those of one engine and workload beside each other."""
    runs: dict[Key, Run] = {}
    for name, model in models.items():
        for dtype, kind in DTYPES.items():
            as_asked = model if kind == torch.float32 else copy.deepcopy(model).to(kind)
            for engine in ENGINES[:2]:
                if engine in names:
                    made = torch_runs(as_asked, compiled=engine == "inductor")
                    runs |= {(name, work, engine, dtype): run for work, run in made.items()}
        if set(ENGINES[2:]) & set(names):
            for work, engine, dtype, run in graph_runs(model, folder / name, names):
                runs[name, work, engine, dtype] = run
        print(f"  {name}: {model.num_parameters():,} parameters", flush=True)
    order = product(ROUNDS, ENGINES, DTYPES, VARIANTS)
    keys = [(name, work, engine, dtype) for work, engine, dtype, name in order]
    return {key: runs[key] for key in keys if key in runs}


def differences(models: Mapping[str, Any], runs: Mapping[Key, Run]) -> dict[Key, float]:
    """Largest difference of a logit from eager torch in float32, as a share of the largest logit.

    What inductor compiles, it compiles here.
    """
    wanted = {
        (name, work): run().double()
        for name, model in models.items()
        for work, run in torch_runs(model, compiled=False).items()
    }
    found = {}
    for key, run in runs.items():
        want, got = wanted[key[:2]], torch.as_tensor(run()).double()
        found[key] = float((got - want).abs().max() / want.abs().max())
    return found


def rows_of(subject: str, spent: Mapping[Key, list[float]], off: Mapping[Key, float]) -> list[Row]:
    """Medians of the rounds."""
    rows = []
    for (name, *where), times in spent.items():
        workload, engine, dtype = where
        dense = spent["dense", workload, engine, dtype]
        ratios = [one / other for one, other in zip(times, dense, strict=True)]
        ratio = median_interval(ratios)
        row = Row(
            subject=subject,
            variant=name,
            workload=workload,
            engine=engine,
            dtype=dtype,
            milliseconds=round(statistics.median(times), 2),
            of_dense=round(ratio.median, 3),
            between=(round(ratio.low, 3), round(ratio.high, 3)),
            difference=float(f"{off[name, workload, engine, dtype]:.2g}"),
        )
        print(
            f"{engine:12} {dtype} {workload:8}{name:10}{row.milliseconds:9.2f} ms  "
            f"{row.of_dense:.3f} of dense ({ratio.low:.3f} .. {ratio.high:.3f})  "
            f"off by {row.difference:.1g}",
            flush=True,
        )
        rows.append(row)
    return rows


def measure(subject: Subject, names: Sequence[str]) -> tuple[list[Variant], list[Row]]:
    """All variants of one model, in turns."""
    print(subject.name, flush=True)
    limits = torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
    with TemporaryDirectory() as folder, torch.no_grad(), limits:
        models, said = models_of(subject)
        runs = runs_of(models, Path(folder), names)
        off, spent = differences(models, runs), dict[Key, list[float]]()
        for work, rounds in ROUNDS.items():
            chosen = {key: run for key, run in runs.items() if key[1] == work}
            spent |= engines.in_turns(chosen, rounds, warm=1)
    torch._dynamo.reset()
    return said, rows_of(subject.name, spent, off)


def installed() -> dict[str, str]:
    """What is left out -> why."""
    out = {name: "is not installed" for name in ENGINES[2:] if find_spec(name) is None}
    if "onnxruntime" not in out:
        out["onnxruntime, bf16"] = NO_BF16
    if "openvino" not in out and not engines.openvino_has_bf16():
        out["openvino, bf16"] = NO_BF16
    return out


def table(rows: Sequence[Mapping[str, Any]], subject: str) -> str:
    """Markdown: milliseconds of dense, and the others as a share of it."""
    cells = {
        (row["engine"], row["dtype"], row["workload"], row["variant"]): row
        for row in rows
        if row["subject"] == subject
    }
    head = [part for work in ("prompt", "token") for part in (f"dense, {work}", *VARIANTS[1:])]
    lines = [f"| {subject} | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for engine in ENGINES:
        for dtype in DTYPES:
            found = [cells.get((engine, dtype, work, v)) for work in ROUNDS for v in VARIANTS]
            if not all(found):
                continue
            shown = [
                f"{row['milliseconds']:.3g} ms"
                if row["variant"] == "dense"
                else f"{row['of_dense']:.2f}"
                for row in found
                if row is not None
            ]
            lines.append(f"| {engine}, {dtype} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> int:
    """0 when every run computes what eager torch computes, else 1."""
    parser = argparse.ArgumentParser(description="Latency of compressed models on a CPU.")
    parser.add_argument("--out", type=Path, help="results (default: results/latency.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    others, out = record.others(), installed()
    for what, why in out.items():
        print(f"left out: {what} {why}")
    said, rows = list[Variant](), list[Row]()
    for subject in SUBJECTS:
        about, found = measure(subject, [name for name in ENGINES if name not in out])
        said += about
        rows += found
        gc.collect()
    plain = [asdict(row) for row in rows]
    for subject in SUBJECTS:
        print(table(plain, subject.name))
    wrong = [row for row in rows if not row.right]
    for row in wrong:
        print(f"MISSED   {row.engine} {row.dtype} {row.variant}: off by {row.difference}")
    settings = {
        **others,
        "cpu": {"instructions": torch.backends.cpu.get_cpu_capability()},
        "threads": 1,
        "prompt": PROMPT,
        "rounds": ROUNDS,
        "ratio": RATIO,
        "left_out": out,
    }
    results = {**settings, "variants": [asdict(each) for each in said], "rows": plain}
    print(record.write("latency", results, asked.out))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
