"""Equal stored parameters: does routing pay where memory is what is short? One seed for each set.

    python -m benchmarks.parse.stored [--models babyllama stories260K] [--out FILE]

KL to the dense model behind the prompt. For each share S of the targeted weights that is stored:

    pairs       the static plan that stores S, and runs S
    pivots      gacfx's own plan with every form, which stores S (pivots cannot be subset)
    routed      pools that store S, of which less runs
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.parse.measure import Judge
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from benchmarks.parse.texts import PROMPT, SEEDS, corpus
from gacfx.applying import apply
from gacfx.calibration.text import Corpus
from gacfx.core.search import Search
from gacfx.hardware.profile import load_profile
from gacfx.modules.routing_hooks import attach_, pick_for
from gacfx.routing.planning import active_share, stored_share
from gacfx.routing.study import is_static
from gacfx.study import Study

STORED = ("0.7", "0.8", "0.9")
LESS = ("0.1", "0.2")
"""How much less than what is stored runs of a pool."""


def rows_of(found: Calibrated, seed: int, stored: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All rows of one seed."""
    study, block = found.study(seed), found.subject.block
    judge = Judge.of(found.model, found.tests(seed), len(found.texts))
    text = corpus(torch.cat([part for each in found.texts for part in each.parts]))
    base = {"model": found.subject.name, "seed": seed}
    with gacfx_study(found, text) as own:
        for share in stored:
            removed = f"{1 - float(share):.4f}"
            plan = study.plan(removed=removed, block=block, offered=is_static)
            model = apply(found.model, study.planned(plan))
            yield {**base, "plan": "pairs", "stored": share, "active": share, "kl": judge.kl(model)}
            planned = own.plan(
                removed,
                profile=load_profile("h200"),
                search=Search(form="auto", value="two-sided", align=block),
            )
            model = apply(found.model, planned)
            yield {
                **base,
                "plan": "pairs and pivots",
                "stored": share,
                "active": share,
                "kl": judge.kl(model),
            }
            for less in LESS:
                runs = 1 - float(share) + float(less)
                plan = study.plan(removed=f"{runs:.4f}", stored=share, block=block)
                model = apply(found.model, study.planned(plan))
                router, pick = study.router(plan), None
                if router is not None:
                    attach_(model, router)
                    pick = pick_for(model, judge.windows_PT[:, :PROMPT])
                yield {
                    **base,
                    "plan": "routed",
                    "stored": f"{stored_share(plan):.3f}",
                    "active": f"{active_share(plan):.3f}",
                    "counts": plan.counts,
                    "kl": judge.kl(model, pick),
                }


def gacfx_study(found: Calibrated, text: Corpus) -> closing[Study]:
    """A study of all forms on the same text."""
    return closing(Study.make(found.model, text, seq=192))


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="KL at equal stored parameters.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS], default=["babyllama"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(SEEDS)])
    parser.add_argument("--stored", nargs="+", default=STORED)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for name in asked.models:
        found = calibrated(SUBJECTS[name], asked.data, None, None)
        for seed in asked.seeds:
            for row in rows_of(found, seed, asked.stored):
                rows.append(row)
                print(json.dumps(row), flush=True)
    print(record.write("parse_stored", {"rows": rows}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
