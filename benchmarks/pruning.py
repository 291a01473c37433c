"""What does structured pruning add to ranks? Excess loss over dense, by what may be chosen.

    python -m benchmarks.pruning [--data ../shared/data] [--models babyllama stories260K]
    python -m benchmarks.pruning --models smollm2 --smollm2 FOLDER --rows ours --out FILE.json
    python -m benchmarks.pruning --models smollm2 --smollm2 FOLDER --rows llm-pruner --out FILE.json

Texts and models are those of :mod:`benchmarks.quality`. In one run, all by the same statistics:

    pairs       ranks as pairs of factors only
    ranks       ranks in any form
    only        sizes of MLPs and attentions only, the units that stay taking over
    either      a size or ranks for each of them
    both        a size, and ranks of what it leaves
    cautious    the same with the loss of those ranks counted twice
    auto        the best of the last three on held-back calibration text: what gacfx delivers
    auto, 1     the same without alignment
    corrected   auto, and rounds of corrections (:mod:`gacfx.corrections`)
    ranks, corrected    ranks with those
    uniform     one size for all layers

and LLM-Pruner beside it, by its own scores and with nothing taking over: ``own``, the sizes of its
own allocation, unaligned; ``gac``, sizes of the knapsack of GAC-v2 in steps of 8, by the same
scores. In all layers of the two small models, too shallow to leave the first three alone; in all
but the first three of SmolLM2, as in its paper.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import record
from benchmarks.memory import peak_gib
from benchmarks.quality import SUBJECTS as MODELS
from benchmarks.quality import Subject, Texts, texts_of
from gacfx import api
from gacfx.calibration.text import usage
from gacfx.compressors.methods import register
from gacfx.compressors.pruning.llm_pruner import LlmPruner
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.search import MENUS, Prune, Search
from gacfx.errors import GacError
from gacfx.study import Study

GOALS = {
    "babyllama": {"0.1": 0.0004, "0.2": 0.0015, "0.3": 0.0105, "0.4": 0.040},
    "stories260K": {"0.1": 0.069, "0.2": 0.633},
    "smollm2": {"0.1": 0.010, "0.2": 0.06, "0.3": 0.18},
}
"""Model -> ratio -> most excess of ``auto`` in steps of 8, nats per token. Those of stories260K are
what ranks alone reach."""
MOST_ALIGNMENT = 0.05
"""Share of the excess that alignment may add, or :data:`SMALL` nats."""
SMALL = 0.0005
ROWS = ("ours", "llm-pruner")
"""Parts of the table, each with statistics of its own."""
ROUNDS = {"smollm2": 1}
"""Model -> rounds of corrections: three elsewhere; a round of SmolLM2 takes minutes."""
FACTOR = 2.0
"""Between what is promised and what is measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One plan and its measured loss."""

    model: str
    plan: str
    ratio: str
    kept_params: int
    limit_params: int
    choices: dict[str, int]
    """Kind of decision -> groups."""
    value_model: str
    prune: str
    promised_nats: float
    excess_nats: float
    held_back: dict[str, float]
    """Menu that was tried -> excess on held-back calibration text."""
    seconds: float
    """To plan, trials included, curves that were measured before not."""


def searches(subject: Subject) -> dict[str, Search]:
    """What stands in the table of a model."""
    value, rounds = subject.value, ROUNDS.get(subject.name, 3)
    if subject.name == "smollm2":  # an hour as it is; benchmarks.quality has its ranks
        return {"corrected": Search(prune="auto", align=8, value=value, corrections=rounds)}
    menus: tuple[Prune, ...] = (*MENUS, "auto")
    found: dict[str, Search] = {menu: Search(prune=menu, align=8, value=value) for menu in menus}
    return {
        "pairs": Search(form="pair", align=8, value=value),
        "ranks": Search(align=8, value=value),
        "only": Search(prune="only", align=8, value=value),
        **found,
        "auto, 1": Search(prune="auto", align=1, value=value),
        "corrected": Search(prune="auto", align=8, value=value, corrections=rounds),
        "ranks, corrected": Search(align=8, value=value, corrections=rounds),
        "uniform": Search(prune="only", align=8, value=value, uniform=True),
    }


def rows_of(subject: Subject, study: Study, texts: Texts, ratios: Sequence[str]) -> list[Row]:
    """Every plan at every ratio."""
    profile, rows, known = api.load_profile("h200"), [], dict[object, float]()
    for ratio in ratios:
        for name, search in searches(subject).items():
            begin = time.perf_counter()
            made = study.plan(ratio, profile=profile, search=search)
            seconds = time.perf_counter() - begin
            same = tuple((c.group, c.decision) for c in made.plan.choices)
            if same not in known:  # menus may come to one and the same plan
                known[same] = study.measure(made, texts.judges[0])
            excess = known[same] - texts.dense[0]
            rows.append(_row(subject, name, made, excess, seconds))
    return rows


def pruner_rows(
    subject: Subject, model: nn.Module, texts: Texts, ratios: Sequence[str]
) -> list[Row]:
    """LLM-Pruner's own sizes, and those of GAC-v2 around them."""
    method = "llm-pruner"
    if subject.name != "smollm2":
        method = register(LlmPruner("llm-pruner-everywhere", first=0)).name
    study = Study.make(model, texts.calibration, method=method)
    profile, rows = api.load_profile("h200"), []
    for ratio in ratios:
        for name in ("own", "gac"):
            begin = time.perf_counter()
            try:
                if name == "own":
                    made = study.upstream(ratio, profile=profile)
                else:
                    search = replace(Search.paper("only"), align=8)
                    made = study.plan(ratio, profile=profile, search=search)
            except GacError as error:
                print(f"{subject.name:12}{ratio}  {name}: {error}", flush=True)
                continue
            seconds = time.perf_counter() - begin
            excess = study.measure(made, texts.judges[0]) - texts.dense[0]
            rows.append(_row(subject, f"llm-pruner, {name}", made, excess, seconds))
    return rows


def _row(subject: Subject, name: str, made: Planned, excess: float, seconds: float) -> Row:
    plan = made.plan
    counts: dict[str, int] = {}
    for choice in plan.choices:
        counts[choice.decision.kind] = counts.get(choice.decision.kind, 0) + 1
    row = Row(
        model=subject.name,
        plan=name,
        ratio=plan.budget.ratio,
        kept_params=plan.kept_params,
        limit_params=plan.budget.limit_params,
        choices=dict(sorted(counts.items())),
        value_model=plan.provenance.value_model,
        prune=plan.provenance.search.prune,
        promised_nats=round(plan.loss_nats, 6),
        excess_nats=round(excess, 6),
        held_back=_held_back(plan),
        seconds=round(seconds, 1),
    )
    said = " ".join(f"{number} {kind}" for kind, number in row.choices.items())
    print(
        f"{row.model:12}{row.ratio}  {row.plan:16} {row.prune:8} {row.value_model:10} "
        f"promised {row.promised_nats:.4f}  excess {row.excess_nats:.4f}  {seconds:5.0f} s  {said}",
        flush=True,
    )
    return row


def _held_back(plan: Plan) -> dict[str, float]:
    made = plan.provenance
    dense = made.dense_nats_per_token or 0.0
    return {
        f"{trial.prune}, {trial.value_model}": round(trial.nats_per_token - dense, 6)
        for trial in made.trials
        if trial.nats_per_token is not None
    }


def reached(subject: Subject, rows: list[Row]) -> dict[str, bool]:
    """Goal -> whether it was reached."""
    excess = {(row.ratio, row.plan): row.excess_nats for row in rows}
    found = {}
    for ratio, most in GOALS[subject.name].items():
        for plan in ("auto", "corrected"):
            if (ratio, plan) in excess:
                found[f"{subject.name} at {ratio}, {plan} <= {most}"] = excess[ratio, plan] <= most
        here = excess.get((ratio, "auto"), inf)
        if (free := excess.get((ratio, "auto, 1"))) is not None:
            more = max(abs(free) * MOST_ALIGNMENT, SMALL)
            found[f"{subject.name} at {ratio}: aligned costs at most 5 %"] = here - free <= more
    for row in rows:
        if row.plan in ("only", "auto", "corrected") and float(row.ratio) <= 0.3:
            factor = row.excess_nats / max(row.promised_nats, 1e-9)
            name = f"{subject.name} at {row.ratio}, {row.plan}: forecast within a factor of two"
            found[name] = 1 / FACTOR <= factor <= FACTOR
    return found


def run(
    subject: Subject,
    data: Path,
    folder: Path,
    ratios: Sequence[str],
    parts: Sequence[str],
    work: Path | None,
) -> dict[str, Any]:
    """Calibrate, plan and judge one model: the ``parts`` of :data:`ROWS` that are asked for."""
    model, tokenizer = api.load(folder, dtype=torch.float32)
    texts = texts_of(subject, data, model, tokenizer)
    print(subject.name, usage(texts.calibration), sep="\n", flush=True)
    rows = pruner_rows(subject, model, texts, ratios) if "llm-pruner" in parts else []
    seconds = 0.0
    if "ours" in parts:
        begin = time.perf_counter()
        study = api.calibrate(model, calibration=texts.calibration, structures=True, work=work)
        seconds = time.perf_counter() - begin
        rows = rows_of(subject, study, texts, ratios) + rows
    return {
        "calibration_tokens": sum(map(len, texts.calibration.documents)),
        "calibration_seconds": round(seconds, 1),
        "evaluation_tokens": sum(map(len, texts.judges[0].documents)),
        "dense_nats_per_token": texts.dense[0],
        "peak_rss_gib": round(peak_gib(), 2),
        "rows": [asdict(row) for row in rows],
        "goals": reached(subject, rows),
    }


def main(given: Sequence[str] | None = None) -> int:
    """0 when all goals are reached, else 1."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Excess loss by what the planner may choose.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    parser.add_argument("--models", nargs="+", choices=list(GOALS), default=list(GOALS)[:2])
    parser.add_argument("--ratios", nargs="+", help="instead of all that have a goal")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--work", type=Path, help="folder of what is computed on the way: resumes")
    parser.add_argument("--out", type=Path, help="of the results (default: results/pruning.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for subject in MODELS:
        if subject.name in asked.models:
            folder = asked.data / subject.folder if subject.folder else asked.smollm2
            if folder is None:
                parser.error(f"--models {subject.name}: name its folder with --smollm2")
            ratios = asked.ratios or list(GOALS[subject.name])
            results[subject.name] = run(subject, asked.data, folder, ratios, asked.rows, asked.work)
    goals = {goal: ok for found in results.values() for goal, ok in found["goals"].items()}
    for goal, ok in goals.items():
        print(f"{'reached' if ok else 'MISSED ':7}  {goal}")
    print(record.write("pruning", results, asked.out))
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
