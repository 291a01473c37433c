"""Text of a kind that nobody told the router of: bases of all domains but one, tried on that one.

    python -m benchmarks.parse.unseen [--models babyllama] [--smollm2 FOLDER] [--work FOLDER]

KL to the dense model behind the prompts of the domain that was left out, at equal active rank: the
static prefix that is shared by all others, what the router takes, and every basis by itself.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.parse.measure import Judge
from benchmarks.parse.quality import by_class
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from benchmarks.parse.texts import PROMPT
from gacfx.applying import apply
from gacfx.modules.routing_hooks import attach_, pick_for
from gacfx.routing.planning import with_own_ranks
from gacfx.routing.study import is_static


def rows_of(
    found: Calibrated, seed: int, removed: str, shared: float, domains: Sequence[str], each: bool
) -> Iterator[dict[str, Any]]:
    """A row for each domain that is left out."""
    block = found.subject.block
    for text in found.texts:
        if text.name not in domains:
            continue
        study = found.study(seed, without=text.name)
        static = study.plan(removed=removed, block=block, offered=is_static)
        plan = with_own_ranks(static, shared, block, len(study.names))
        model = apply(found.model, study.planned(plan))
        router = study.router(plan)
        assert router is not None
        attach_(model, router)
        judge = Judge.of(found.model, text.tests[seed], 1)
        pick = pick_for(model, judge.windows_PT[:, :PROMPT])
        made: dict[str, Any] = {
            "model": found.subject.name,
            "seed": seed,
            "removed": removed,
            "shared": shared,
            "left_out": text.name,
            "prefix": judge.kl(model)[-1],
            "router": judge.kl(model, pick)[-1],
            "to_prefix": sum(at == 0 for at in pick.classes) / len(pick.classes),
        }
        if each:
            count = len(judge.windows_PT)
            made["bases"] = {
                name: judge.kl(model, by_class(model, torch.full((count,), at)))[-1]
                for at, name in enumerate(study.names, start=1)
            }
        yield made


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="KL on kinds of text that were left out.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS], default=["babyllama"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--removed", default="0.4")
    parser.add_argument("--shared", type=float, default=0.5)
    parser.add_argument("--domains", nargs="+", help="to leave out (default: each in turn)")
    parser.add_argument("--each", action="store_true", help="every basis by itself, too")
    parser.add_argument("--work", type=Path, help="folder for the statistics of one model")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for name in asked.models:
        subject = SUBJECTS[name]
        found = calibrated(subject, asked.data, asked.smollm2, asked.work)
        left = asked.domains or subject.domains
        for seed in asked.seeds:
            for row in rows_of(found, seed, asked.removed, asked.shared, left, asked.each):
                rows.append(row)
                print(json.dumps(row), flush=True)
    worst = max(row["router"] / row["prefix"] - 1 for row in rows)
    print(f"the router against the shared prefix on what it does not know: {worst:+.1%} at most")
    print(record.write("parse_unseen", {"worst": worst, "rows": rows}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
