"""Keys and values by Palu: excess loss over dense of its own ranks, and of planned ones.

    python -m benchmarks.palu [--data ../shared/data] [--ratios 0.3 0.5]

babyllama-tok105-1M (five layers, four key-value heads of 16), calibrated on stories 0-79 and judged
on the first window (256 tokens) of each of the stories 600-679, as in :mod:`benchmarks.methods`.
Ratios are of the keys' and values' weights, 6 % of the model; both sides have the same budget, own
ranks fall as they fall, and planned ones are multiples of 8, 4 or 1. The claims are what the paper
prints of much larger models.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.methods import CALIBRATION, EVALUATION, MODEL
from benchmarks.quality import STORIES, beginnings
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import read_documents
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.errors import InfeasibleBudget
from gacfx.study import Study

METHODS = ("palu", "palu:allocation=uniform", "palu:heads-per-group=1")
CLAIMS = (("palu", "palu:allocation=uniform"), ("palu", "palu:heads-per-group=1"))
"""(method, another that its own ranks beat, as its paper says)."""
PLANNED, STEPS = "palu", (8, 4, 1)
"""The method that is planned as well, with ranks in these steps."""


@dataclass(frozen=True, slots=True)
class Row:
    """One plan and its measured loss."""

    method: str
    ratio: str
    sizes: str
    """``own``, or ``planned, steps of 8``."""
    kept_params: int
    limit_params: int
    latents: int
    """Numbers for each token that a cache of latents would hold, of all layers."""
    dense_latents: int
    """Numbers that a cache of keys and values holds."""
    odd_sizes: int
    """Sizes that are no multiples of 8, of weights that are not dense."""
    excess_nats: float
    """Measured rise over dense, nats per token."""


def rows_of(study: Study, ratios: Sequence[str], judge: Any, dense: float) -> list[Row]:
    """Own and planned ranks of every method at every ratio that it reaches."""
    profile, rows = api.load_profile("h200"), list[Row]()
    for method in METHODS:
        by = study.with_method(method)
        for ratio in ratios:
            try:
                found = {"own": by.upstream(ratio, profile=profile)}
            except InfeasibleBudget as error:
                print(f"{by.method:30}{ratio}  {error}", flush=True)
                continue
            for step in STEPS if method == PLANNED else ():
                plan = by.plan(ratio, profile=profile, search=Search(align=step))
                found[f"planned, steps of {step}"] = plan
            for sizes, made in found.items():
                excess = by.measure(made, judge) - dense
                rows.append(row_of(by.method, ratio, sizes, made, excess))
                print(rows[-1], flush=True)
    return rows


def row_of(method: str, ratio: str, sizes: str, made: Planned, excess: float) -> Row:
    """What a plan keeps and costs."""
    plan, weights = made.plan, [(w, c) for c in made.plan.choices for w in c.weights]
    odd = [
        size
        for weight, choice in weights
        for size in choice.decision.sizes(weight.rows, weight.columns)
        if size % STEPS[0]
    ]
    return Row(
        method=method,
        ratio=ratio,
        sizes=sizes,
        kept_params=plan.kept_params,
        limit_params=plan.budget.limit_params,
        latents=sum(choice.decision.latents(weight.rows) for weight, choice in weights),
        dense_latents=sum(weight.rows for weight, _ in weights),
        odd_sizes=len(odd),
        excess_nats=round(excess, 6),
    )


def claims(rows: Sequence[Row], ratios: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Claim -> ratio -> whether it holds of own ranks, where both reach the ratio."""
    excess = {(row.method, row.ratio): row.excess_nats for row in rows if row.sizes == "own"}
    return {
        f"{one} below {other}": {
            ratio: excess[one, ratio] < excess[other, ratio]
            for ratio in ratios
            if (one, ratio) in excess and (other, ratio) in excess
        }
        for one, other in CLAIMS
    }


def main(given: Sequence[str] | None = None) -> int:
    """0: claims that do not hold are results, too."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Excess loss of Palu, by itself and planned.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--ratios", nargs="+", default=["0.3", "0.5"])
    parser.add_argument("--out", type=Path, help="of the results (default: results/palu.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    model, tokenizer = api.load(asked.data / MODEL, dtype=torch.float32)
    stories = read_documents(asked.data / "text" / STORIES)
    text = api.read_calibration(stories[CALIBRATION], model, tokenizer, "all")
    judge = beginnings(stories[EVALUATION], model, tokenizer)
    dense = evaluate(model, judge).checked().nats_per_token
    rows = rows_of(Study.make(model, text, method=METHODS[0]), asked.ratios, judge, dense)
    results = {
        "model": Path(MODEL).name,
        "calibration_tokens": text.tokens,
        "evaluation_tokens": judge.tokens,
        "dense_nats_per_token": dense,
        "rows": [asdict(row) for row in rows],
        "claims": claims(rows, asked.ratios),
    }
    print(record.write("palu", results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
