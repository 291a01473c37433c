"""What do the methods do by themselves? Excess loss over dense of each one's own sizes.

    python -m benchmarks.methods [--data ../shared/data] [--ratios 0.2 0.3 0.4] [--methods NAME ...]

babyllama-tok105-1M, calibrated on stories 0-79 and judged on the first window (256 tokens) of each
of the stories 600-679, which nothing else saw. Sizes are those of ``Study.upstream``: no planner,
no alignment, no tuning. The claims are what papers print of much larger models; here stands whether
they hold of this one. With ``--methods`` only these are measured, into
results/methods_some.json.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

import torch

from benchmarks import record
from benchmarks.quality import STORIES, beginnings
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import read_documents
from gacfx.errors import InfeasibleBudget
from gacfx.study import Study

MODEL = "models/babyllama-tok105-1M"
CALIBRATION, EVALUATION = slice(0, 80), slice(600, 680)
LAYERS = "first=0"
"""It has five layers: LLM-Pruner's own three unpruned ones would leave two."""
METHODS = (
    "svd",
    "asvd:allocation=uniform",
    "asvd:allocation=stable-rank",
    "asvd",
    "asvd:scale=abs-max",
    "svd-llm",
    "svd-llm:update=true",
    "svd-llm-v2",
    "svd-llm-v2:shift=1",
    "dobi-svd",
    "basis-sharing",
    "basis-sharing:layers=5",
    "gfwsvd",
    f"llm-pruner:{LAYERS}",
    f"llm-pruner:{LAYERS},score=taylor-mix",
    "magnitude",
    "random",
    "random:seed=1",
    "random:seed=2",
)
CLAIMS = (
    ("asvd:allocation=uniform", "svd"),
    ("asvd", "asvd:allocation=uniform"),
    ("asvd", "svd"),
    ("svd-llm", "svd"),
    ("svd-llm", "asvd"),
    ("svd-llm-v2", "svd-llm"),
    ("svd-llm-v2:shift=1", "svd-llm"),
    ("svd-llm:update=true", "svd-llm"),
    ("dobi-svd", "svd-llm"),
    ("dobi-svd", "asvd"),
    ("basis-sharing", "svd-llm"),
    (f"llm-pruner:{LAYERS}", "magnitude"),
    (f"llm-pruner:{LAYERS}", "random"),
)
"""(method, another that it beats, as its paper says)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method's own sizes and their measured loss."""

    method: str
    ratio: str
    kept_params: int
    limit_params: int
    counts: dict[str, int]
    """Kind of decision -> weights."""
    excess_nats: float
    """Measured rise over dense, nats per token."""
    cpu_s: float
    """Of the processor, for curves, allocation and factors."""


def rows_of(
    study: Study, methods: Sequence[str], ratios: Sequence[str], judge: Any, dense: float
) -> list[Row]:
    """Every method at every ratio that it reaches by itself."""
    profile, rows = api.load_profile("h200"), []
    for method in methods:
        by = study.with_method(method)
        for ratio in ratios:
            started = process_time()
            try:
                made = by.upstream(ratio, profile=profile)
            except InfeasibleBudget as error:
                print(f"{by.method:38}{ratio}  {error}", flush=True)
                continue
            used, plan = process_time() - started, made.plan
            excess = by.measure(made, judge) - dense
            kept, limit = plan.kept_params, plan.budget.limit_params
            rows.append(
                Row(by.method, ratio, kept, limit, plan.counts, round(excess, 6), round(used, 2))
            )
            print(
                f"{by.method:38}{ratio}  kept {kept:,} of {limit:,}  excess {excess:.4f}  "
                f"{used:.1f} s",
                flush=True,
            )
    return rows


def claims(rows: Sequence[Row], ratios: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Claim -> ratio -> whether it holds, where both methods reach the ratio."""
    excess = {(row.method, row.ratio): row.excess_nats for row in rows}
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
    parser = argparse.ArgumentParser(description="Excess loss of each method's own sizes.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--ratios", nargs="+", default=["0.2", "0.3", "0.4"])
    parser.add_argument("--methods", nargs="+", default=METHODS, help="to measure (default: all)")
    parser.add_argument("--out", type=Path, help="of the results (default: in results/)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    model, tokenizer = api.load(asked.data / MODEL, dtype=torch.float32)
    stories = read_documents(asked.data / "text" / STORIES)
    text = api.read_calibration(stories[CALIBRATION], model, tokenizer, "all")
    judge = beginnings(stories[EVALUATION], model, tokenizer)
    dense = evaluate(model, judge).checked().nats_per_token
    some = asked.methods is not METHODS
    study = Study.make(model, text, method=asked.methods[0] if some else f"llm-pruner:{LAYERS}")
    rows = rows_of(study, asked.methods, asked.ratios, judge, dense)
    found = claims(rows, asked.ratios)
    for claim, where in found.items():
        said = ", ".join(f"{ratio} {'yes' if ok else 'NO'}" for ratio, ok in where.items())
        print(f"{claim}: {said}")
    results = {
        "model": Path(MODEL).name,
        "calibration_tokens": text.tokens,
        "evaluation_tokens": judge.tokens,
        "dense_nats_per_token": dense,
        "rows": [asdict(row) for row in rows],
        "claims": found,
    }
    print(record.write("methods_some" if some else "methods", results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
