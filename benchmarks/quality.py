"""What do aligned ranks cost in quality? Excess loss over dense of a small trained model.

    python -m benchmarks.quality [--data ../shared/data]

babyllama-tok105-1M, a Llama of one million parameters: calibrated on stories 0-199, judged on
stories 600-759, which nothing else saw, both whole and in windows of 256 tokens. Plans of gfwsvd in
steps of 8, 16 and 1, and the uniform ranks of SVD-LLM, all in one run. Two judgements: of the first
window of each story (the goals), and of all windows, where the later ones begin in mid-sentence.
"""

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import record
from gacfx import api
from gacfx.calibration.evaluate import Evaluation, evaluate
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
    """Measured rise over dense on the beginnings of the stories, nats per token."""
    excess_whole_nats: float
    """The same on the whole stories."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A text and the dense model's loss on it."""

    text: Corpus
    dense: Evaluation

    def excess_nats(self, study: Study, planned: Planned) -> float:
        """Rise of the loss over the dense model, nats per token."""
        return study.measure(planned, self.text) - self.dense.nats_per_token


def row(name: str, planned: Planned, excess: list[float]) -> Row:
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
        excess_nats=round(excess[0], 6),
        excess_whole_nats=round(excess[1], 6),
    )


def rows_of(study: Study, judges: tuple[Judge, Judge], ratio: str) -> list[Row]:
    """Aligned and unaligned plans, and uniform ranks, at one ratio."""
    profile = api.load_profile("h200")
    plans = {
        f"gfwsvd, steps of {a}": study.plan(ratio, profile=profile, search=Search(align=a))
        for a in ALIGNS
    }
    for method in ("svd-llm", "gfwsvd"):
        uniform = study.with_method(method).upstream(ratio, profile=profile)
        plans[f"{method}, uniform ranks"] = uniform
    return [row(n, p, [j.excess_nats(study, p) for j in judges]) for n, p in plans.items()]


def beginnings(stories: list[str], model: nn.Module, tokenizer: Any) -> Corpus:
    """The first window of each story."""
    whole = (api.read_calibration([story], model, tokenizer, "all") for story in stories)
    return Corpus(tuple(corpus.documents[0] for corpus in whole))


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
    texts = (
        beginnings(stories[EVALUATION], model, tokenizer),
        api.read_calibration(stories[EVALUATION], model, tokenizer, "all"),
    )
    corpus = api.read_calibration(stories[CALIBRATION], model, tokenizer, "all")
    print(usage(corpus), *(usage(text, "evaluation") for text in texts), sep="\n")
    study = Study.make(model, corpus)
    begun, whole = (Judge(text, evaluate(model, text)) for text in texts)
    rows = [r for ratio in MOST_EXCESS_NATS for r in rows_of(study, (begun, whole), ratio)]
    for name, judge in (("beginnings", begun), ("whole", whole)):
        print(f"{MODEL}  {name}  dense {judge.dense.nats_per_token:.4f} nats")
    for r in rows:
        print(
            f"{r.ratio}  {r.plan:22} kept {r.kept_params:,} of {r.limit_params:,}  "
            f"{r.dense_weights:2} dense  {r.value_model:9}  excess {r.excess_nats:.4f} nats, "
            f"whole stories {r.excess_whole_nats:.4f}"
        )
    for goal, reached in goals(rows).items():
        print(f"{'reached' if reached else 'MISSED ':7}  {goal}")
    results = {
        "model": MODEL,
        "calibration_tokens": study.full.statistics.tokens,
        "calibration_text": usage(corpus),
        "evaluation_tokens": begun.dense.tokens,
        "evaluation_whole_tokens": whole.dense.tokens,
        "dense_nats_per_token": begun.dense.nats_per_token,
        "dense_whole_nats_per_token": whole.dense.nats_per_token,
        "rows": [asdict(r) for r in rows],
        "goals": goals(rows),
    }
    print(record.write("quality", results))
    return 0 if all(goals(rows).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
