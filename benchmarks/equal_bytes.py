"""Why not just quantize? Rise of the loss of small trained models at equal bytes of their weights.

    python -m benchmarks.equal_bytes [--data ../shared/data] [--models babyllama stories260K]
    python -m benchmarks.equal_bytes --models smollm2 --smollm2 FOLDER --out results/FILE.json

Texts and models are those of :mod:`benchmarks.quality`. Bytes are those of the targeted weights,
scales and orders included, as a share of their bytes in bfloat16. Weights are rounded to nearest
(:mod:`benchmarks.rounding`), dense ones and factors alike. For each number of bytes that a format
takes for the dense weights:

    int8, int4-g32, ...    the dense weights in that format
    pairs                  ranks as pairs of factors, in as many bytes
    ranks                  ranks in any form: pairs and pivots
    pruned                 sizes of MLPs and attentions only
    pruned and ranks       what ``--prune auto`` gives
    ... + int8             the same with int8 instead of bfloat16, and so with fewer of them gone

and what a format costs on top of 20 % that are gone.
"""

import argparse
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gacfx
from benchmarks import record
from benchmarks.quality import SUBJECTS, Subject, Texts, texts_of
from benchmarks.rounding import BF16, INT4, INT8, Format, store_
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import usage
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.errors import GacError
from gacfx.modules.dense import weight_of
from gacfx.passes.planning.read_graph import target_names
from gacfx.study import Study

FIXED = "0.2"
"""Share that is removed before formats are compared on what is left."""
CLOSE = Fraction(1, 200)
"""A plan may leave this share of the bytes unused; it is planned again otherwise."""
ROUNDS = 4
INSIDE = {INT8: (BF16,), **dict.fromkeys(INT4, (INT8,)), INT4[0]: (INT8, BF16)}
"""Format whose bytes may be taken -> formats of what is left of the weights."""
PRUNED_FOR = (INT8, INT4[0])
"""Whose bytes pruned models are planned for; others take nearly as many as the second."""
ROUNDING = (
    "benchmarks.rounding: the numbers of torchao 0.18's IntxWeightOnlyConfig with bfloat16 scales "
    "(tests/unit/compose/test_compose_rounding.py), and shorter last groups"
)
PLANS = ("pairs", "ranks", "pruned", "pruned and ranks")


@dataclass(frozen=True, slots=True)
class Row:
    """Weights in some bytes, and their measured loss."""

    model: str
    budget: str
    """Whose bytes they may take, or the share that is removed."""
    budget_bytes: int | None
    """None where a share is removed."""
    plan: str
    stored: str
    """Format of the numbers."""
    bytes: int
    share: float
    """Of the bytes of the dense weights in bfloat16."""
    kept_params: int
    counts: dict[str, int]
    """Kind of decision -> weights."""
    excess_nats: float
    """Measured rise over dense, nats per token."""
    excess_whole_nats: float | None
    """The same on whole stories."""


def searches(value: str) -> dict[str, Search]:
    """What stands beside the formats."""
    asked: tuple[dict[str, Any], ...] = ({"form": "pair"}, {}, {"prune": "only"}, {"prune": "auto"})
    return {name: Search(value=value, **more) for name, more in zip(PLANS, asked, strict=True)}


@dataclass(frozen=True, eq=False)
class Bench:
    """One model, calibrated, and what it is judged on."""

    subject: Subject
    study: Study
    texts: Texts
    names: tuple[str, ...]
    """Of the targeted weights."""

    @property
    def dense_bytes(self) -> int:
        """Of the targeted weights in bfloat16."""
        layers = (self.study.model.get_submodule(name) for name in self.names)
        return sum(BF16.nbytes(*weight_of(layer).shape) for layer in layers)

    def stored(self, made: Planned | None, form: Format) -> tuple[nn.Module, int]:
        """(the model in that form, its bytes)."""
        dense = self.study.model
        model = copy.deepcopy(dense) if made is None else gacfx.apply(dense, made)
        return model, store_(model, self.names, form)

    def plan(self, ratio: str, search: Search) -> Planned:
        """With that share of the targeted weights gone."""
        return self.study.plan(ratio, profile=api.load_profile("h200"), search=search)

    def within(self, most_bytes: int, search: Search, form: Format) -> Planned:
        """The plan that fills these bytes best in a few tries; never more.

        Raises:
            GacError: no plan is as small.
        """
        per_param = Fraction(form.bits, 8)
        whole = Fraction(self.dense_bytes, BF16.nbytes(1, 1))  # parameters
        ratio, best = 1 - most_bytes / (per_param * whole), None
        for _ in range(ROUNDS):
            made = self.plan(f"{float(max(ratio, Fraction(0))):.6f}", search)
            over = self.stored(made, form)[1] - most_bytes
            if over <= 0:
                best = made
                if -over <= CLOSE * most_bytes:
                    break
            ratio += (over + (CLOSE * most_bytes / 4 if over > 0 else 0)) / (per_param * whole)
        if best is None:
            raise GacError(f"no plan of {most_bytes:,} bytes in {ROUNDS} tries")
        return best

    def row(
        self, budget: str, most: int | None, plan: str, made: Planned | None, form: Format
    ) -> Row:
        """Measured."""
        model, nbytes = self.stored(made, form)
        excess = [
            round(evaluate(model, judge).checked().nats_per_token - dense, 6)
            for judge, dense in zip(self.texts.judges, self.texts.dense, strict=True)
        ]
        whole = self.dense_bytes // BF16.nbytes(1, 1)
        row = Row(
            model=self.subject.name,
            budget=budget,
            budget_bytes=most,
            plan=plan,
            stored=form.name,
            bytes=nbytes,
            share=round(nbytes / self.dense_bytes, 5),
            kept_params=whole if made is None else made.plan.kept_params,
            counts={} if made is None else made.plan.counts,
            excess_nats=excess[0],
            excess_whole_nats=excess[1] if len(excess) > 1 else None,
        )
        tail = "" if row.excess_whole_nats is None else f" / {row.excess_whole_nats:.4f}"
        print(
            f"{row.model:12}{row.budget:10} {row.plan:17}{row.stored:10} {row.share:.4f}  "
            f"{row.kept_params:>11,}  {row.excess_nats:.4f}{tail}",
            flush=True,
        )
        return row

    def rows(self, plans: Sequence[str], formats: Sequence[Format]) -> Iterator[Row]:
        """The whole table."""
        yield self.row("bf16", self.dense_bytes, "dense", None, BF16)
        wanted = {name: s for name, s in searches(self.subject.value).items() if name in plans}
        for form in formats:
            most = self.stored(None, form)[1]
            yield self.row(form.name, most, "dense", None, form)
            for name, search in wanted.items():
                if search.prune != "none" and form not in PRUNED_FOR:
                    continue
                for inside in INSIDE[form]:
                    try:
                        made = self.within(most, search, inside)
                    except GacError as error:
                        print(f"{self.subject.name:12}{form.name:10} {name}: {error}", flush=True)
                        continue
                    yield self.row(form.name, most, name, made, inside)
        for name, search in wanted.items():
            made = self.plan(FIXED, search)
            for form in (BF16, INT8, *(f for f in formats if f.bits < INT8.bits)):
                yield self.row(f"{FIXED} gone", None, name, made, form)


def run(
    subject: Subject,
    data: Path,
    folder: Path,
    plans: Sequence[str],
    formats: Sequence[Format],
    work: Path | None,
) -> dict[str, Any]:
    """Calibrate and measure one model."""
    model, tokenizer = api.load(folder, dtype=torch.float32)
    texts = texts_of(subject, data, model, tokenizer)
    print(subject.name, usage(texts.calibration), sep="\n")
    structures = any("pruned" in plan for plan in plans)
    study = api.calibrate(model, calibration=texts.calibration, structures=structures, work=work)
    bench = Bench(subject, study, texts, tuple(target_names(study.graph)))
    rows = list(bench.rows(plans, formats))
    return {
        "calibration_tokens": study.full.statistics.tokens,
        "evaluation_tokens": [sum(len(d) for d in judge.documents) for judge in texts.judges],
        "dense_nats_per_token": texts.dense,
        "targeted_params": bench.dense_bytes // BF16.nbytes(1, 1),
        "targeted_bytes_bf16": bench.dense_bytes,
        "rows": [asdict(row) for row in rows],
    }


def main(given: Sequence[str] | None = None) -> int:
    """0 when no row takes more bytes than it may, else 1."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Rise of the loss at equal bytes of weights.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    names, formats = [s.name for s in SUBJECTS], {form.name: form for form in (INT8, *INT4)}
    parser.add_argument("--models", nargs="+", choices=names, default=names[:2])
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=PLANS)
    parser.add_argument("--formats", nargs="+", choices=list(formats), default=list(formats))
    parser.add_argument("--work", type=Path, help="folder of what is computed on the way: resumes")
    parser.add_argument("--out", type=Path, help="results (default: results/equal_bytes.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    results: dict[str, Any] = {"rounding": ROUNDING}
    for subject in (s for s in SUBJECTS if s.name in asked.models):
        folder = asked.data / subject.folder if subject.folder else asked.smollm2
        if folder is None:
            parser.error(f"--models {subject.name}: name its folder with --smollm2")
        forms = [formats[name] for name in asked.formats]
        results[subject.name] = run(subject, asked.data, folder, asked.plans, forms, asked.work)
    rows = [row for name in asked.models for row in results[name]["rows"]]
    over = [row for row in rows if row["budget_bytes"] and row["bytes"] > row["budget_bytes"]]
    for row in over:
        print(f"MISSED   {row['model']}: {row['plan']} takes more bytes than {row['budget']}")
    print(record.write("equal_bytes", results, asked.out))
    return 1 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
