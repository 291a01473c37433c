"""Short prompts: what the router takes them for, and what that is worth on the text that follows.

    python -m benchmarks.parse.lengths [--models stories260K babyllama] [--removed 0.4]
    python -m benchmarks.parse.lengths --models smollm2 --smollm2 FOLDER --work FOLDER --out FILE

The first 12, 24, 48 and 96 tokens of each test window are the prompt, half of the ranks are own
ones of each kind of text, and KL to the dense model is that behind token 96, whatever the prompt.
Once with the gate for the length of the prompt, and once with that of 96 tokens for all.
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
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from benchmarks.parse.texts import PROMPT
from gacfx.applying import apply
from gacfx.modules.routing_hooks import attach_, means_of
from gacfx.routing.planning import with_own_ranks
from gacfx.routing.study import is_static

LENGTHS = (12, 24, 48, PROMPT)


def rows_of(found: Calibrated, seed: int, removed: str, shared: float) -> Iterator[dict[str, Any]]:
    """All rows of one seed."""
    study, subject = found.study(seed), found.subject
    judge = Judge.of(found.model, found.tests(seed), len(found.texts))
    static = study.plan(removed=removed, block=subject.block, offered=is_static)
    plan = with_own_ranks(static, shared, subject.block, len(study.names))
    model, router = apply(found.model, study.planned(plan)), study.router(plan)
    assert router is not None
    attach_(model, router)
    each = len(judge.windows_PT) // judge.groups
    known_P = torch.arange(judge.groups).repeat_interleave(each) + 1
    base = {"model": subject.name, "seed": seed, "removed": removed, "shared": shared}
    prefix = judge.kl(model)[-1]
    yield {**base, "tokens": 0, "gate": "-", "kl": prefix}
    for tokens in LENGTHS:
        means_PF = means_of(found.model, judge.windows_PT[:, :tokens])
        counts_P = torch.full((len(means_PF),), tokens)
        for gate, counts in (("of its length", counts_P), ("of 96 tokens", None)):
            if tokens == PROMPT and counts is None:
                continue
            pick = router.pick(means_PF, counts)
            seen_P = torch.tensor(pick.classes)
            kl = judge.kl(model, pick)[-1] if bool(seen_P.any()) else prefix
            yield {
                **base,
                "tokens": tokens,
                "gate": gate,
                "right": float((seen_P == known_P).double().mean()),
                "wrong": float(((seen_P != known_P) & (seen_P > 0)).double().mean()),
                "kl": kl,
                "to_prefix": kl / prefix - 1,
            }


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="What short prompts are taken for.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS], default=["babyllama"])
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--removed", default="0.4")
    parser.add_argument("--shared", type=float, default=0.5, help="share of each rank (0.5)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, help="folder for the statistics of one model")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for name in asked.models:
        found = calibrated(SUBJECTS[name], asked.data, asked.smollm2, asked.work)
        for seed in asked.seeds:
            for row in rows_of(found, seed, asked.removed, asked.shared):
                rows.append(row)
                print(json.dumps(row), flush=True)
    print(record.write("parse_lengths", {"rows": rows}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
