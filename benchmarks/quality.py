"""What do aligned ranks cost in quality? Excess loss over dense of a small trained model.

    python -m benchmarks.quality [--data ../shared/data] [--out benchmarks/results/quality.json]

babyllama-tok105-1M, a Llama of 1M parameters: calibrated on stories 0-199, judged on stories
600-759. Plans of gfwsvd under the two-sided value model at aligned (8) and at any ranks, and the
uniform allocation of SVD-LLM for comparison. The goals are those of the project.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import record
from gacfx.calibration.evaluate import Evaluation, evaluate
from gacfx.calibration.gather import gather
from gacfx.calibration.text import max_positions, read_documents, tokenize
from gacfx.compressors.allocate import allocate
from gacfx.compressors.lowrank import Decomposition, decompose
from gacfx.compressors.methods import METHODS
from gacfx.core.curves import Curve
from gacfx.modules.install import swapped
from gacfx.passes.planning.sweep_candidates import candidates
from gacfx.planning import Group, Problem, kept_budget, solve

MODEL, TEXT = "babyllama-tok105-1M", "tinystories_stories.jsonl"
CALIBRATION, EVALUATION = slice(0, 200), slice(600, 760)
RATIOS = ("0.2", "0.3")
MOST_EXCESS_NATS = {"0.2": 0.01, "0.3": 0.05}
MOST_ALIGNMENT_NATS = 0.003

Ranks = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One plan and its measured loss."""

    plan: str
    method: str
    ratio: str
    align: int
    kept_params: int
    dense_params: int
    dense_weights: int
    """Weights that the plan keeps dense."""
    estimated_nats: float
    """Rise that the curves promise, nats per token."""
    excess_nats: float
    """Measured rise over dense, nats per token."""
    perplexity: float


def choose(curves: Mapping[str, Curve], ratio: str, align: int) -> dict[str, int | None]:
    """Ranks of the optimal plan: aligned ranks below break-even, or dense, under the budget."""
    options = {name: candidates(curve, align) for name, curve in curves.items()}
    dense = {name: curve.rows * curve.columns for name, curve in curves.items()}
    groups = [
        Group(
            name,
            np.array([dense[name] if r is None else curve.params(r) for r in options[name]]),
            np.array([0.0 if r is None else -curve.loss_nats[r] for r in options[name]]),
        )
        for name, curve in curves.items()
    ]
    found = solve(Problem(tuple(groups), kept_budget(sum(dense.values()), ratio)))
    return {name: options[name][i] for name, i in zip(options, found.choice, strict=True)}


class Bench:
    """The model, its texts and what calibration found, measured once."""

    def __init__(self, data: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            data / "models" / MODEL, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(data / "models" / MODEL)
        stories = read_documents(data / "text" / TEXT)
        positions = max_positions(self.model)
        self.calibration = tokenize(stories[CALIBRATION], tokenizer, positions)
        self.evaluation = tokenize(stories[EVALUATION], tokenizer, positions)
        linears = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"
        }
        self.weights: dict[str, Tensor] = {n: m.weight.detach() for n, m in linears.items()}
        self.moments = gather(self.model, self.calibration, linears).moments
        self.dense = evaluate(self.model, self.evaluation)

    def decompositions(self, method: str) -> dict[str, Decomposition]:
        """Module -> decomposition of its weight."""
        return {
            name: decompose(weight, self.moments[name], METHODS[method], module=name)
            for name, weight in self.weights.items()
        }

    def measure(self, found: Mapping[str, Decomposition], ranks: Ranks) -> Evaluation:
        """Loss of the model with these ranks."""
        factors = {n: found[n].factors(r) for n, r in ranks.items() if r is not None}
        with swapped(self.model, factors):
            return evaluate(self.model, self.evaluation)

    def row(self, plan: str, method: str, ratio: str, align: int) -> Row:
        """Plan and measure."""
        found = self.decompositions(method)
        curves = {name: part.curve("two-sided") for name, part in found.items()}
        shapes = {name: (c.rows, c.columns) for name, c in curves.items()}
        ranks = allocate(shapes, ratio) if plan == "uniform" else choose(curves, ratio, align)
        measured = self.measure(found, ranks)
        dense = {name: rows * columns for name, (rows, columns) in shapes.items()}
        taken = {name: rank for name, rank in ranks.items() if rank is not None}
        kept = sum(dense.values()) + sum(curves[n].params(r) - dense[n] for n, r in taken.items())
        return Row(
            plan=plan,
            method=method,
            ratio=ratio,
            align=align,
            kept_params=kept,
            dense_params=sum(dense.values()),
            dense_weights=len(ranks) - len(taken),
            estimated_nats=sum(float(curves[n].loss_nats[r]) for n, r in taken.items()),
            excess_nats=measured.nats_per_token - self.dense.nats_per_token,
            perplexity=measured.perplexity,
        )


def goals(rows: list[Row]) -> dict[str, bool]:
    """Goal -> whether it was reached."""
    excess = {(r.ratio, r.align): r.excess_nats for r in rows if r.plan == "planner"}
    reached = {}
    for ratio, most in MOST_EXCESS_NATS.items():
        reached[f"excess at {ratio} <= {most} nats"] = excess[ratio, 8] <= most
        worse = excess[ratio, 8] - excess[ratio, 1]
        reached[f"aligned at {ratio} <= {MOST_ALIGNMENT_NATS} nats worse"] = (
            worse <= MOST_ALIGNMENT_NATS
        )
    return reached


def table(dense: Evaluation, rows: list[Row]) -> str:
    """The rows as text."""
    lines = [
        f"{MODEL}  dense {dense.nats_per_token:.4f} nats  perplexity {dense.perplexity:.3f}",
        "ratio  plan     method   align    kept  dense  estimate  excess nats  perplexity",
    ]
    lines += [
        f"{r.ratio:5}  {r.plan:7}  {r.method:7}  {r.align:5}  "
        f"{r.kept_params / r.dense_params:6.2%}  {r.dense_weights:5}  {r.estimated_nats:8.4f}  "
        f"{r.excess_nats:11.4f}  {r.perplexity:10.3f}"
        for r in rows
    ]
    return "\n".join(lines)


def report(bench: Bench, rows: list[Row]) -> dict[str, object]:
    """What the results file holds about this benchmark."""
    return {
        "device": "cpu, one thread, float32",
        "model": MODEL,
        "calibration_tokens": bench.calibration.tokens,
        "calibration_digest": bench.calibration.digest,
        "evaluation_tokens": bench.dense.tokens,
        "dense_nats_per_token": bench.dense.nats_per_token,
        "dense_perplexity": bench.dense.perplexity,
        "rows": [asdict(row) for row in rows],
        "goals": goals(rows),
    }


def main() -> int:
    """0 when all goals are reached, else 1."""
    data = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.data)
    rows = []
    for ratio in RATIOS:
        rows.append(bench.row("planner", "gfwsvd", ratio, 8))
        rows.append(bench.row("planner", "gfwsvd", ratio, 1))
        rows.append(bench.row("uniform", "svd-llm", ratio, 1))
    record.write("quality", report(bench, rows), options.out)
    print(table(bench.dense, rows))
    for goal, reached in goals(rows).items():
        print(f"{'reached' if reached else 'MISSED ':7}  {goal}")
    return 0 if all(goals(rows).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
