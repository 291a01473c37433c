"""Zero-shot tasks of models whose prompts pick their ranks, beside static ones of as many.

    python -m benchmarks.parse.tasks --smollm2 FOLDER --work FOLDER [--limit 100] [--out FILE]

The paper claims accuracy over static ranks. Here for each share that does not run:

    svd-llm, uniform    the same share of every weight, whitened by its inputs: the paper's baseline
    static plan         the exact plan of pairs
    own bases           its ranks, all of them own ones of five kinds of text, by the router
    half shared         half of them

Accuracies have their standard error, and their change against the static plan that of the items'
differences. The questions are of none of the kinds of text, and short.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.parse.quality import SHARES
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from gacfx.applying import apply
from gacfx.core.decision import LowRank, break_even
from gacfx.core.plan import Plan
from gacfx.modules.routing_hooks import attach_, router_of
from gacfx.routing.planning import active_share, stored_share, with_own_ranks
from gacfx.routing.study import is_static
from gacfx.zeroshot import read_tasks, score
from gacfx.zeroshot.scores import Scores

TASKS = ("piqa", "arc_easy", "arc_challenge", "hellaswag")


def uniform(plan: Plan, removed: float) -> Plan:
    """The same share of every weight, in any rank.

    Args:
        plan: of pairs and dense weights.
        removed: share of each weight.
    """
    choices = []
    for choice in plan.choices:
        (weight,) = choice.weights
        rank = int((1 - removed) * weight.params / (weight.rows + weight.columns))
        assert rank <= break_even(weight.rows, weight.columns)
        choices.append(replace(choice, decision=LowRank(rank)))
    return replace(plan, choices=tuple(choices), proof=None)


def models(
    found: Calibrated, seed: int, removed: Sequence[str], plans: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """(share, name, model, active share, stored share)."""
    yield "0", "dense", found.model, 1.0, 1.0
    block = found.subject.block
    # Pools of a large model in memory twice would be too much.
    study, other = (
        replace(found.study(seed, method), remember=False) for method in ("gfwsvd", "svd-llm")
    )
    for share in removed:
        static = study.plan(removed=share, block=block, offered=is_static)
        plan = uniform(static, float(share))
        model = apply(found.model, other.planned(plan))
        yield share, "svd-llm, uniform", model, active_share(plan), stored_share(plan)
        model = apply(found.model, study.planned(static))
        yield share, "static plan", model, active_share(static), stored_share(static)
        for name in plans:
            part = SHARES[name]
            plan = with_own_ranks(static, part, block, len(study.names))
            model = apply(found.model, study.planned(plan))
            router = study.router(plan)
            assert router is not None
            attach_(model, router)
            yield share, name, model, active_share(plan), stored_share(plan)


def line(
    share: str, name: str, scores: Scores, static: Scores | None, **more: Any
) -> dict[str, Any]:
    """A row of the table."""
    made: dict[str, Any] = {"removed": share, "model": name, **more, "scores": scores.to_dict()}
    if static is not None:
        pairs = zip(scores.tasks, static.tasks, strict=True)
        made["to_static"] = {
            one.task: {
                metric: {"mean": change.mean, "stderr": change.stderr}
                for metric in ("acc", "acc_norm")
                for change in [one.change(other, metric)]
            }
            for one, other in pairs
        }
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="Zero-shot tasks of prompt-aware ranks.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--model", choices=[*SUBJECTS], default="smollm2")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--work", type=Path, help="folder for the statistics")
    parser.add_argument("--removed", nargs="+", default=["0.4", "0.6"])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, default=100, help="items of each task (100)")
    parser.add_argument("--plans", nargs="+", choices=[*SHARES], default=[*SHARES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    found = calibrated(SUBJECTS[asked.model], asked.data, asked.smollm2, asked.work)
    tasks = read_tasks(asked.tasks, data=asked.data / "zeroshot")
    rows: list[dict[str, Any]] = []
    static: Scores | None = None
    for share, name, model, active, stored in models(found, asked.seed, asked.removed, asked.plans):
        scores = score(model, found.tokenizer, tasks, limit=asked.limit, name=name)
        routed = router_of(model) is not None
        row = line(share, name, scores, static if routed else None, active=active, stored=stored)
        static = scores if name == "static plan" else static
        rows.append(row)
        accuracies = {task.task: round(task.acc_norm.mean, 3) for task in scores.tasks}
        print(json.dumps({"removed": share, "model": name, **accuracies}), flush=True)
    results = {"limit": asked.limit, "rows": rows}
    print(record.write("parse_tasks", results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
