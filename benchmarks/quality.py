"""What do aligned ranks cost in quality? Excess loss over dense of a small trained model.

    python -m benchmarks.quality [--data ../shared/data]

babyllama-tok105-1M, a Llama of one million parameters: calibrated on stories 0-199, judged on
stories 600-759, which nothing else saw, both whole and in windows of 256 tokens. Plans of gfwsvd in
steps of 8, 16 and 1, and the uniform ranks of SVD-LLM, all in one run.
"""

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import record
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus, read_documents, usage
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.study import Study

MODEL, TEXT = "babyllama-tok105-1M", "tinystories_stories.jsonl"
CALIBRATION, EVALUATION = slice(0, 200), slice(600, 760)
MOST_EXCESS_NATS = {"0.2": 0.01, "0.3": 0.05}
MOST_ALIGNMENT_NATS = 0.003
ALIGNS = (8, 16, 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One plan and its measured loss."""

    plan: str
    ratio: str
    kept_params: int
    limit_params: int
    dense_weights: int
    """Weights that the plan keeps dense."""
    value_model: str
    estimated_nats: float
    """Rise that the curves promise, nats per token; only a nats model means something here."""
    excess_nats: float
    """Measured rise over dense, nats per token."""


def row(name: str, planned: Planned, excess_nats: float) -> Row:
    """A plan as a row of the table."""
    plan = planned.plan
    return Row(
        plan=name,
        ratio=plan.budget.ratio,
        kept_params=plan.kept_params,
        limit_params=plan.budget.limit_params,
        dense_weights=len(plan.choices) - len(plan.ranks),
        value_model=plan.provenance.value_model,
        estimated_nats=round(plan.loss_nats, 6),
        excess_nats=round(excess_nats, 6),
    )


def rows_of(study: Study, judge: Corpus, dense_nats: float, ratio: str) -> list[Row]:
    """Aligned and unaligned plans, and uniform ranks, at one ratio."""
    profile = api.load_profile("h200")
    plans = {
        f"gfwsvd, steps of {a}": study.plan(ratio, profile=profile, search=Search(align=a))
        for a in ALIGNS
    }
    for method in ("svd-llm", "gfwsvd"):
        uniform = study.with_method(method).upstream(ratio, profile=profile)
        plans[f"{method}, uniform ranks"] = uniform
    return [row(n, p, study.measure(p, judge) - dense_nats) for n, p in plans.items()]


def goals(rows: list[Row]) -> dict[str, bool]:
    """Goal -> whether it was reached."""
    excess = {(r.ratio, r.plan): r.excess_nats for r in rows}
    reached = {}
    for ratio, most in MOST_EXCESS_NATS.items():
        aligned, free = (excess[ratio, f"gfwsvd, steps of {a}"] for a in (8, 1))
        reached[f"excess at {ratio} <= {most} nats"] = aligned <= most
        reached[f"aligned at {ratio} <= {MOST_ALIGNMENT_NATS} nats worse"] = (
            aligned - free <= MOST_ALIGNMENT_NATS
        )
    return reached


def main() -> int:
    """0 when all goals are reached, else 1."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Excess loss of aligned and uniform ranks.")
    parser.add_argument("--data", type=Path, default=default)
    data = parser.parse_args().data
    torch.set_num_threads(1)
    model, tokenizer = api.load(data / "models" / MODEL)
    stories = read_documents(data / "text" / TEXT)
    judge = api.read_calibration(stories[EVALUATION], model, tokenizer, "all")
    corpus = api.read_calibration(stories[CALIBRATION], model, tokenizer, "all")
    print(usage(corpus), usage(judge, "evaluation"), sep="\n")
    study = Study.make(model, corpus)
    dense = evaluate(model, judge)
    rows = [
        r for ratio in MOST_EXCESS_NATS for r in rows_of(study, judge, dense.nats_per_token, ratio)
    ]
    print(f"{MODEL}  dense {dense.nats_per_token:.4f} nats  perplexity {dense.perplexity:.3f}")
    for r in rows:
        print(
            f"{r.ratio}  {r.plan:22} kept {r.kept_params:,} of {r.limit_params:,}  "
            f"{r.dense_weights:2} dense  {r.value_model:9}  excess {r.excess_nats:.4f} nats"
        )
    for goal, reached in goals(rows).items():
        print(f"{'reached' if reached else 'MISSED ':7}  {goal}")
    results = {
        "model": MODEL,
        "calibration_tokens": study.full.statistics.tokens,
        "calibration_text": usage(corpus),
        "evaluation_tokens": dense.tokens,
        "evaluation_text": usage(judge, "evaluation"),
        "dense_nats_per_token": dense.nats_per_token,
        "rows": [asdict(r) for r in rows],
        "goals": goals(rows),
    }
    print(record.write("quality", results))
    return 0 if all(goals(rows).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
