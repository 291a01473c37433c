"""What do aligned ranks cost in quality? Excess loss over dense of a small trained model.

    python benchmarks/quality.py [--data ../shared/data] [--out benchmarks/results/quality.json]

babyllama-tok105-1M, a Llama of 1M parameters: calibrated on stories 0-199, judged on stories
600-759. Plans of gfwsvd under the two-sided value model at aligned (8) and at any ranks, and the
uniform allocation of SVD-LLM for comparison. The goals are those of the project.
"""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from gacfx.calibration.evaluate import Evaluation, evaluate
from gacfx.calibration.gather import gather
from gacfx.calibration.text import max_positions, read_documents, tokenize
from gacfx.compressors.allocate import allocate
from gacfx.compressors.lowrank import Decomposition, decompose
from gacfx.compressors.methods import METHODS
from gacfx.core.curves import Curve
from gacfx.modules.install import swapped

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
    """Ranks of a plan: Lagrangian bisection, then a greedy fill of what is left."""
    budget = int((1 - float(ratio)) * sum(c.rows * c.columns for c in curves.values()))
    options = {
        name: [(c.params(r), float(c.loss_nats[r]), r) for r in range(align, c.break_even, align)]
        + [(c.rows * c.columns, 0.0, None)]
        for name, c in curves.items()
    }

    def pick(price: float) -> dict[str, tuple[int, float, int | None]]:
        return {k: min(o, key=lambda z: z[1] + price * z[0]) for k, o in options.items()}

    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        fits = sum(z[0] for z in pick(middle).values()) <= budget
        low, high = (low, middle) if fits else (middle, high)
    chosen = pick(high)
    while True:
        room = budget - sum(z[0] for z in chosen.values())
        steps = [
            ((chosen[k][1] - z[1]) / (z[0] - chosen[k][0]), k, z)
            for k, o in options.items()
            for z in o
            if 0 < z[0] - chosen[k][0] <= room and z[1] < chosen[k][1]
        ]
        if not steps:
            return {k: z[2] for k, z in chosen.items()}
        _, name, best = max(steps, key=lambda s: s[0])
        chosen[name] = best


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
    """Everything that the results file holds."""
    packages = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": python_version(), **packages},
        "device": "cpu, one thread, float32",
        "model": MODEL,
        "calibration_tokens": bench.calibration.tokens,
        "calibration_digest": bench.calibration.digest,
        "evaluation_tokens": bench.dense.tokens,
        "dense_nats_per_token": bench.dense.nats_per_token,
        "dense_perplexity": math.exp(bench.dense.nats_per_token),
        "rows": [asdict(row) for row in rows],
        "goals": goals(rows),
    }


def main() -> int:
    """0 when all goals are reached, else 1."""
    here = Path(__file__).parent
    data = Path(os.environ.get("GACFX_DATA", here.parent / "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--out", type=Path, default=here / "results" / "quality.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.data)
    rows = []
    for ratio in RATIOS:
        rows.append(bench.row("planner", "gfwsvd", ratio, 8))
        rows.append(bench.row("planner", "gfwsvd", ratio, 1))
        rows.append(bench.row("uniform", "svd-llm", ratio, 1))
    found = report(bench, rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(bench.dense, rows))
    for goal, reached in goals(rows).items():
        print(f"{'reached' if reached else 'MISSED ':7}  {goal}")
    return 0 if all(goals(rows).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
