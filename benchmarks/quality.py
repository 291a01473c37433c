"""What do aligned sizes cost in quality? Excess loss over dense of small trained models.

    python -m benchmarks.quality [--data ../shared/data] [--models babyllama stories260K]
    python -m benchmarks.quality --models smollm2 --smollm2 FOLDER --out results/FILE.json

Each model is calibrated on one text and judged on another, which nothing else saw. In one run:
plans of gfwsvd with pairs only (as gacfx made them before there were pivots), with every form, in
steps of 8; for the first model also steps of 16 and 1, and the uniform ranks of SVD-LLM.

    babyllama    stories 0-199; stories 600-759, the first window of each (256 tokens), and all
    stories260K  the same stories and windows of 512
    smollm2      51,200 tokens from all over WikiText-2 valid; the first 20,480 of test; two-sided
                 curves, in float32
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import record
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus, read_documents, usage
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.study import Study

STORIES, CALIBRATION, EVALUATION = "tinystories_stories.jsonl", slice(0, 200), slice(600, 760)
WIKI = ("wikitext2_valid_tokens.txt", "wikitext2_test_tokens.txt")
WIKI_TOKENS = (51_200, 20_480)
"""Calibrated on, and judged on."""
MOST_ALIGNMENT_NATS = 0.003


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and what is asked of it."""

    name: str
    folder: str
    """In the data, or empty for one that is named on the command line."""
    goals: dict[str, float]
    """Ratio -> most excess with every form in steps of 8, nats per token."""
    value: str = "auto"
    beside: bool = False
    """Also other steps, and uniform ranks."""


SUBJECTS = (
    Subject(
        "babyllama",
        "models/babyllama-tok105-1M",
        {"0.2": 0.004, "0.3": 0.018, "0.4": 0.10, "0.5": 0.28},
        beside=True,
    ),
    Subject("stories260K", "models/stories260K", {"0.1": 0.075, "0.2": 0.70}),
    Subject("smollm2", "", {"0.1": 0.016, "0.2": 0.10, "0.3": 0.29}, value="two-sided"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One plan and its measured loss."""

    model: str
    plan: str
    ratio: str
    kept_params: int
    limit_params: int
    counts: dict[str, int]
    """Kind of decision -> weights."""
    value_model: str
    estimated_nats: float
    """Rise that the curves promise, nats per token; only a nats model means something here."""
    excess_nats: float
    """Measured rise over dense, nats per token."""
    excess_whole_nats: float | None
    """The same on whole stories, where later windows begin in mid-sentence."""


@dataclass(frozen=True)
class Texts:
    """What a model is calibrated on and judged on."""

    calibration: Corpus
    judges: tuple[Corpus, ...]
    dense: tuple[float, ...] = field(default=())


def texts_of(subject: Subject, data: Path, model: nn.Module, tokenizer: Any) -> Texts:
    """The texts of a model, and its loss on them."""
    if subject.name == "smollm2":
        valid, test = (read_documents(data / "text" / name) for name in WIKI)
        calibration = api.read_calibration(valid, model, tokenizer, WIKI_TOKENS[0])
        # The beginning of the text, as an iterator is read.
        first = api.read_calibration(iter(test), model, tokenizer, WIKI_TOKENS[1])
        judges: tuple[Corpus, ...] = (first,)
    else:
        stories = read_documents(data / "text" / STORIES)
        calibration = api.read_calibration(stories[CALIBRATION], model, tokenizer, "all")
        judged = stories[EVALUATION]
        whole = api.read_calibration(judged, model, tokenizer, "all")
        judges = (beginnings(judged, model, tokenizer), whole)
    dense = tuple(evaluate(model, judge).checked().nats_per_token for judge in judges)
    return Texts(calibration, judges, dense)


def beginnings(stories: list[str], model: nn.Module, tokenizer: Any) -> Corpus:
    """The first window of each story."""
    whole = (api.read_calibration([story], model, tokenizer, "all") for story in stories)
    return Corpus(tuple(corpus.documents[0] for corpus in whole))


def rows_of(subject: Subject, study: Study, texts: Texts) -> list[Row]:
    """Pairs only and every form at each ratio, and what stands beside them."""
    profile, rows = api.load_profile("h200"), []
    for ratio in subject.goals:
        searches = {
            f"steps of 8, {form}": Search(form=form, value=subject.value, align=8)
            for form in ("pair", "auto")
        }
        if subject.beside:
            searches |= {f"steps of {a}, auto": Search(align=a) for a in (16, 1)}
        for name, search in searches.items():
            made = study.plan(ratio, profile=profile, search=search)
            rows.append(_shown(_row(subject, name, study, made, texts)))
        for method in ("svd-llm", "gfwsvd") if subject.beside else ():
            made = study.with_method(method).upstream(ratio, profile=profile)
            rows.append(_shown(_row(subject, f"{method}, uniform", study, made, texts)))
    return rows


def _row(subject: Subject, name: str, study: Study, made: Planned, texts: Texts) -> Row:
    plan = made.plan
    excess = [
        round(study.measure(made, judge) - dense, 6)
        for judge, dense in zip(texts.judges, texts.dense, strict=True)
    ]
    return Row(
        model=subject.name,
        plan=name,
        ratio=plan.budget.ratio,
        kept_params=plan.kept_params,
        limit_params=plan.budget.limit_params,
        counts=plan.counts,
        value_model=plan.provenance.value_model,
        estimated_nats=round(plan.loss_nats, 6),
        excess_nats=excess[0],
        excess_whole_nats=excess[1] if len(excess) > 1 else None,
    )


def _shown(row: Row) -> Row:
    whole = "" if row.excess_whole_nats is None else f", whole {row.excess_whole_nats:.4f}"
    counts = " ".join(f"{number} {kind}" for kind, number in row.counts.items())
    print(
        f"{row.model:12}{row.ratio}  {row.plan:18} {row.value_model:10} {counts:28} "
        f"kept {row.kept_params:,} of {row.limit_params:,}  excess {row.excess_nats:.4f}{whole}",
        flush=True,
    )
    return row


def goals(subject: Subject, rows: list[Row]) -> dict[str, bool]:
    """Goal -> whether it was reached."""
    excess = {(r.ratio, r.plan): r.excess_nats for r in rows}
    reached = {}
    for ratio, most in subject.goals.items():
        here = excess[ratio, "steps of 8, auto"]
        reached[f"{subject.name} at {ratio} <= {most} nats"] = here <= most
        free = excess.get((ratio, "steps of 1, auto"))
        if free is not None:
            name = f"{subject.name} at {ratio}: aligned <= {MOST_ALIGNMENT_NATS} nats worse"
            reached[name] = here - free <= MOST_ALIGNMENT_NATS
    return reached


def run(subject: Subject, data: Path, folder: Path) -> dict[str, Any]:
    """Calibrate, plan and judge one model."""
    model, tokenizer = api.load(folder, dtype=torch.float32)
    texts = texts_of(subject, data, model, tokenizer)
    print(subject.name, usage(texts.calibration), sep="\n")
    study = Study.make(model, texts.calibration)
    rows = rows_of(subject, study, texts)
    return {
        "calibration_tokens": study.full.statistics.tokens,
        "calibration_text": usage(texts.calibration),
        "evaluation_tokens": [sum(len(d) for d in judge.documents) for judge in texts.judges],
        "dense_nats_per_token": texts.dense,
        "rows": [asdict(row) for row in rows],
        "goals": goals(subject, rows),
    }


def main(given: Sequence[str] | None = None) -> int:
    """0 when all goals are reached, else 1."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Excess loss of pairs, of pivots, and uniform.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--models", nargs="+", choices=names, default=names[:2])
    parser.add_argument("--out", type=Path, help="of the results (default: results/quality.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for subject in SUBJECTS:
        if subject.name in asked.models:
            folder = asked.data / subject.folder if subject.folder else asked.smollm2
            if folder is None:
                parser.error(f"--models {subject.name}: name its folder with --smollm2")
            results[subject.name] = run(subject, asked.data, folder)
    reached = {goal: ok for found in results.values() for goal, ok in found["goals"].items()}
    for goal, ok in reached.items():
        print(f"{'reached' if ok else 'MISSED ':7}  {goal}")
    print(record.write("quality", results, asked.out))
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
