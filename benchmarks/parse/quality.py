"""What prompt-aware bases are worth: KL to the dense model behind the prompt, three seeds.

    python -m benchmarks.parse.quality [--data ../shared/data] [--models stories260K babyllama]
    python -m benchmarks.parse.quality --models smollm2 --smollm2 FOLDER --work FOLDER --out FILE

For each share of the targeted weights that does not run, at equal active rank of every weight:

    static              the exact plan of pairs
    own bases           the same ranks, all of them own ones of each kind of text
    half shared         the same ranks, half of each shared by all texts
    planned, stored S   pools of the exact plan under two budgets

own ones are chosen by the router, and beside it by who knows the domain. Stored is what lies in
memory as a share of the dense targeted weights, the static prefix for all other text included.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import record
from benchmarks.parse.measure import Judge, spread
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from benchmarks.parse.texts import PROMPT, SEEDS
from gacfx.applying import apply
from gacfx.core.plan import Plan
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import attach_, pick_for, router_of
from gacfx.routing.bases import pool_factors
from gacfx.routing.planning import active_share, stored_share, with_own_ranks
from gacfx.routing.study import PoolMaker, RoutingStudy, is_static

STORED = ("1.25", "1.0")
SHARES = {"own bases": 0.0, "half shared": 0.5}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to choose ranks, measured."""

    model: str
    method: str
    seed: int
    removed: str
    plan: str
    chosen_by: str
    """``-`` for what does not look at the prompt, ``router``, or ``domain`` for who knows it."""
    active: float
    stored: float
    counts: dict[str, int]
    promised_nats: float
    kl: list[float]
    """Of each domain, then the mean; nats per token."""
    right: float | None = None
    """Share of the prompts that the router gave to their own domain."""
    prefix: float | None = None
    """Share that it gave to none."""


def rows_of(
    found: Calibrated,
    seed: int,
    method: str,
    removed: Sequence[str],
    stored: Sequence[str],
    gradients: Sequence[float],
) -> Iterator[Row]:
    """All rows of one seed."""
    study, subject = found.study(seed, method), found.subject
    judge = Judge.of(found.model, found.tests(seed), len(found.texts))
    for share in removed:
        static = study.plan(removed=share, block=subject.block, offered=is_static)
        plans = {"static": static}
        plans |= {
            name: with_own_ranks(static, part, subject.block, len(study.names))
            for name, part in SHARES.items()
        }
        plans |= {
            f"planned, stored {most}": study.plan(removed=share, stored=most, block=subject.block)
            for most in stored
        }
        made: dict[str, PoolMaker] = {
            f"own bases, gradients {own:g}": partial(pool_factors, own=own) for own in gradients
        }
        plans |= dict.fromkeys(made, plans["own bases"])
        for name, plan in plans.items():
            model = apply(found.model, study.planned(plan, make=made.get(name, pool_factors)))
            base = Row(
                subject.name,
                method,
                seed,
                share,
                name,
                "-",
                active_share(plan),
                stored_share(plan),
                plan.counts,
                plan.loss_nats,
                [],
            )
            yield from measured(model, study, plan, judge, base)


def measured(
    model: nn.Module, study: RoutingStudy, plan: Plan, judge: Judge, base: Row
) -> Iterator[Row]:
    """A plan, chosen by the router and by who knows the domain."""
    router = study.router(plan)
    if router is None:
        yield replace(base, kl=judge.kl(model))
        return
    attach_(model, router)
    pick = pick_for(model, judge.windows_PT[:, :PROMPT])
    known = torch.arange(judge.groups).repeat_interleave(len(judge.windows_PT) // judge.groups) + 1
    seen = torch.tensor(pick.classes)
    yield replace(
        base,
        chosen_by="router",
        kl=judge.kl(model, pick),
        right=float((seen == known).float().mean()),
        prefix=float((seen == 0).float().mean()),
    )
    if base.plan in SHARES and base.seed == 0:
        yield replace(base, chosen_by="domain", kl=judge.kl(model, by_class(model, known)))


def by_class(model: nn.Module, classes: torch.Tensor) -> Pick:
    """The patterns of some kinds of text."""
    router = router_of(model)
    assert router is not None
    patterns = router.patterns().blocks
    return Pick({name: rows[classes] for name, rows in patterns.items()}, tuple(classes.tolist()))


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, and what each plan is to the static one of its seed."""
    static = {(r.model, r.method, r.removed, r.seed): r.kl[-1] for r in rows if r.plan == "static"}
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.model, row.method, row.removed, row.plan, row.chosen_by)
        groups.setdefault(key, []).append(row)
    made = []
    for (model, method, removed, plan, by), found in groups.items():
        ratios = [r.kl[-1] / static[model, method, removed, r.seed] - 1 for r in found]
        made.append(
            {
                "model": model,
                "method": method,
                "removed": removed,
                "plan": plan,
                "chosen_by": by,
                "seeds": len(found),
                "active": found[0].active,
                "stored": spread([r.stored for r in found])["mean"],
                "kl": spread([r.kl[-1] for r in found]),
                "to_static": spread(ratios),
            }
        )
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="KL to dense of prompt-aware bases.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS], default=["stories260K"])
    parser.add_argument("--methods", nargs="+", default=["gfwsvd"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(SEEDS)])
    parser.add_argument("--removed", nargs="+", help="shares (default: those of the model)")
    parser.add_argument("--stored", nargs="*", default=STORED, help="of the plans (1.25 1.0)")
    parser.add_argument(
        "--own-gradients", nargs="*", type=float, default=[], help="other shares to try, 0 to 1"
    )
    parser.add_argument("--work", type=Path, help="folder for the statistics of one model")
    parser.add_argument("--out", type=Path, help="of the results")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in asked.models:
        subject = SUBJECTS[name]
        found = calibrated(subject, asked.data, asked.smollm2, asked.work)
        for seed in asked.seeds:
            for method in asked.methods:
                shares = asked.removed or subject.removed
                for row in rows_of(found, seed, method, shares, asked.stored, asked.own_gradients):
                    rows.append(row)
                    print(json.dumps(asdict(row)), flush=True)
    table = summary(rows)
    for line in table:
        kl, ratio = line["kl"], line["to_static"]
        print(
            f"{line['model']:12} {line['method']:8} {line['removed']} {line['plan']:22} "
            f"{line['chosen_by']:7} stored {line['stored']:.2f}  KL {kl['mean']:.4f} "
            f"({kl['min']:.4f} .. {kl['max']:.4f})  {ratio['mean']:+.1%}"
        )
    results = {"summary": table, "rows": [asdict(row) for row in rows]}
    print(record.write("parse_quality", results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
