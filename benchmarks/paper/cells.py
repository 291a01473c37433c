"""What is measured of a row, each by itself: sizes, quality, zero-shot scores, times, forecasts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from benchmarks import record
from benchmarks.paper.kept import Found
from benchmarks.paper.recipes import ALIGN
from benchmarks.paper.subject import Subject
from gacfx.bench.run import bench
from gacfx.bench.setting import Setting
from gacfx.bench.sides import read_models
from gacfx.calibration.evaluate import evaluate
from gacfx.captured import captured
from gacfx.checkpoint.load import load_dense
from gacfx.checkpoint.save import PLAN_FOLDER
from gacfx.compressors.values import VALUES
from gacfx.core.files.reading import read_text
from gacfx.core.plan import Budget, Plan
from gacfx.core.plan_folder import PLAN_FILE
from gacfx.core.provenance import Provenance
from gacfx.core.sites import Mode
from gacfx.hardware.measure.interleave import Effort
from gacfx.speedup import graph_speedup
from gacfx.tracing.capture import torch_dtype
from gacfx.tracing.skeleton import read_config, skeleton
from gacfx.zeroshot import read_tasks, score
from gacfx.zeroshot.harness import check_installed, harness_name

MODES: tuple[Mode, ...] = ("prefill", "decode")
CELLS = ("sizes", "quality", "zeroshot", "latency", "forecast")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how."""

    tasks: tuple[str, ...] = ("piqa", "hellaswag")
    samples: int | None = 200
    """Items of each task, its first ones; None for all."""
    tasks_dtype: str = "bf16"
    """In which the questions are answered: the papers' models answer in half precision."""
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    """In which times are taken."""
    prefill: int = 256
    """Tokens of a measured prompt, and of the cache of a measured decode step."""
    runs: int = 12
    """Rounds of each measurement, at most, and at least half of them."""
    seconds: float = 12.0
    """No further round begins after this time."""
    gpus: tuple[str, ...] = ("a100", "h100", "h200")
    forecast: int = 1024
    """The same for forecasts."""


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint that is measured."""

    folder: Path
    digest: str
    plan: Plan | None
    """None for the dense model."""


Cell = Callable[[Subject, Row, Settings], Found]


def sizes(subject: Subject, row: Row, settings: Settings) -> Found:
    """Parameters, and how many of the dims that were changed are multiples of 8."""
    plan = row.plan
    if plan is None:
        params = sum(each.numel() for each in subject.model.parameters())
        return {"model_params": params, "kept_share": 1.0, "aligned": None, "changed_dims": 0}
    budget, dims, value = plan.budget, plan.sizes, plan.provenance.value_model
    good = sum(size % ALIGN == 0 for size in dims)
    return {
        "model_params": budget.model_params - budget.targeted_params + plan.kept_params,
        "targeted_params": budget.targeted_params,
        "kept_params": plan.kept_params,
        "limit_params": budget.limit_params,
        "kept_share": plan.kept_params / budget.targeted_params,
        "changed_dims": len(dims),
        "aligned": good / len(dims) if dims else None,
        "counts": plan.counts,
        "value_model": value,
        "promised_nats": plan.loss_nats if in_nats(value) else None,
    }


def quality(subject: Subject, row: Row, settings: Settings) -> Found:
    """Loss and perplexity on the judging text, in float32."""
    model, _ = load_dense(row.folder, dtype=torch.float32)
    found = evaluate(model, subject.judge).checked()
    return {
        "nats_per_token": found.nats_per_token,
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "window": subject.window,
    }


def zeroshot(subject: Subject, row: Row, settings: Settings) -> Found:
    """Accuracies with their standard errors.

    Raises:
        NoLmEval: lm-eval is not installed.
    """
    check_installed()
    model, tokenizer = load_dense(row.folder, dtype=torch_dtype(settings.tasks_dtype))
    tasks = read_tasks(settings.tasks, data=subject.data / "zeroshot")
    found = score(model, tokenizer, tasks, limit=settings.samples, name=row.folder.name)
    return {**found.to_dict(), "harness": harness_name(), "dtype": settings.tasks_dtype}


def latency(subject: Subject, row: Row, settings: Settings) -> Found:
    """Medians on this CPU, batch 1, and the ratio to the dense model, both timed in turn."""
    found: Found = record.others()
    seq = subject.seq(settings.prefill)
    effort = Effort(settings.runs, settings.seconds)
    setting = Setting(batches=(1,), seq=seq, modes=MODES, effort=effort)
    for dtype in settings.dtypes:
        sources = [row.folder] if row.plan is None else [row.folder, subject.folder]
        made = bench(*read_models(sources, device="cpu", dtype=dtype), setting=setting)
        for cell in made.cells:
            ratio, dense = cell.ratio, cell.dense
            found[f"{cell.work.mode} {dtype}"] = {
                "status": cell.status,
                "reason": cell.reason,
                "ms": None if cell.model is None else cell.model.median_us / 1e3,
                "dense_ms": None if dense is None else dense.median_us / 1e3,
                "times_as_fast": None if ratio is None else [ratio.median, ratio.low, ratio.high],
                "verdict": cell.verdict,
                "rounds": None if cell.model is None else cell.model.runs,
            }
        found["threads"] = made.machine.threads
    return {**found, "seq": seq}


def forecast(subject: Subject, row: Row, settings: Settings) -> Found:
    """Forecast of the whole model in bf16 on GPUs, from rules, not measured; batch 1."""
    seq = subject.seq(settings.forecast)
    graph, plan = graph_of(subject.folder, seq), row.plan or EMPTY
    found: Found = {"seq": seq}
    for gpu in settings.gpus:
        made = graph_speedup(graph, plan, gpu=gpu, seq=seq)
        found[gpu] = {
            "evidence": made.evidence,
            "refused": made.refused,
            **{
                point.mode: {"ms": point.planned_us / 1e3, "times_as_fast": point.ratio}
                for point in made.points
                if point.batch == 1
            },
        }
    return found


@cache
def graph_of(folder: Path, seq: int) -> GraphModule:
    """The dense model in bf16, without weights."""
    return captured(skeleton(read_config(folder), torch.bfloat16), seq=seq).graph


EMPTY = Plan((), Budget("0", "targeted", 0, 0, 0), None, Provenance("", "", "", 1, "bf16"))
"""Everything stays dense."""


def in_nats(value_model: str) -> bool:
    """Whether the losses of a plan are a forecast of the rise: a method's own sizes have those of
    the first value model that is tried."""
    name, _, _ = value_model.partition(":")
    return name == "upstream" or VALUES.find(name).in_nats


def plan_of(folder: Path) -> Plan:
    """The plan of a checkpoint.

    Raises:
        CheckpointError, PlanError: there is none, or it cannot be read.
    """
    path = folder / PLAN_FOLDER / PLAN_FILE
    return Plan.from_json(read_text(path), where=str(path))


MEASURES: dict[str, Cell] = dict(
    zip(CELLS, (sizes, quality, zeroshot, latency, forecast), strict=True)
)


def key_of(cell: str, subject: Subject, row: Row, settings: Settings) -> dict[str, Any]:
    """What a cell depends on."""
    own: dict[str, Sequence[Any] | Any] = {
        "sizes": [],
        "quality": [subject.judge.digest],
        "zeroshot": [settings.tasks, settings.samples, settings.tasks_dtype],
        "latency": [
            settings.dtypes, settings.prefill, settings.runs, settings.seconds,
            torch.get_num_threads(),
        ],
        "forecast": [settings.gpus, settings.forecast],
    }  # fmt: skip
    return {"checkpoint": row.digest, "dense": subject.digest, "settings": own[cell]}
