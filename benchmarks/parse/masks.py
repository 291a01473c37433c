"""PARSE as in the paper: picks among the pieces of one basis, trained and by oracles, three seeds.

    python -m benchmarks.parse.masks [--models stories260K babyllama] [--blocks 8 1] [--out FILE]

KL to the dense model behind the prompt, at equal active rank of every weight (the static plan of
pairs, in steps of 8), from pools of 1.5 times that rank. Of blocks half the rank is always on, of
single ranks none:

    prefix              the static plan itself
    trained, static     one mask for all prompts: what training alone brings
    trained, domain     one mask for each domain, given to who knows it
    trained, linear     the paper's router, from the mean embedding of the prompt
    trained, two-layer  the same through a hidden layer: are picks linearly separable?
    energy, output      the pieces of most output energy in the prompt
    energy, nats        the pieces of most nats in the prompt
    energy, shrunk      half of that, half of all prompts
    hindsight, nats     the same of the text behind the prompt, which nobody can know

The shares of training text say how much a router depends on it: all, half, a quarter, and that of
other domains only.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.parse.measure import Judge, spread
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from benchmarks.parse.texts import PROMPT, SEEDS
from gacfx.applying import apply
from gacfx.core.routed import Routed
from gacfx.modules.prompt_router import Pick, Projection
from gacfx.modules.routing_hooks import means_of, pools
from gacfx.routing.classes import principal
from gacfx.routing.one_basis.choose_masks import of_one_basis
from gacfx.routing.one_basis.mask_steps import MaskTraining
from gacfx.routing.one_basis.mask_training import best_learning_rate
from gacfx.routing.one_basis.masks import Kind, TrainedMasks
from gacfx.routing.one_basis.oracle import Energies, measure_energies, oracle_pick, pool_weights
from gacfx.routing.one_basis.singular import widened
from gacfx.routing.planning import stored_share
from gacfx.routing.study import RoutingStudy, is_static

POOL, FEATURES = 1.5, 8
KINDS: tuple[Kind, ...] = ("static", "domain", "linear", "two-layer")


@dataclass(frozen=True, eq=False)
class Prompts:
    """Windows with what routers look at."""

    windows_PT: Tensor
    numbers_PF: Tensor
    known_PD: Tensor
    """One-hot domain."""

    def features(self, kind: Kind) -> Tensor | None:
        """What masks of a kind look at."""
        return {"static": None, "domain": self.known_PD}.get(kind, self.numbers_PF)

    def some(self, places: Tensor) -> "Prompts":
        """Some of them."""
        return Prompts(self.windows_PT[places], self.numbers_PF[places], self.known_PD[places])


def prompts_of(
    model: nn.Module, parts: Sequence[Tensor], projection: Projection | None
) -> tuple[Prompts, Projection]:
    """The windows of all domains, one domain after the other."""
    windows_PT = torch.cat([*parts])
    means_PF = means_of(model, windows_PT[:, :PROMPT])
    made = projection or principal(means_PF, FEATURES)
    numbers_PF = made(means_PF.double())[0].float()
    known_PD = torch.eye(len(parts)).repeat_interleave(len(parts[0]), 0)
    return Prompts(windows_PT, numbers_PF, known_PD), made


def pooled(
    study: RoutingStudy, removed: str, step: int, block: int
) -> tuple[Any, dict[str, Tensor], float]:
    """(model with pools of one basis, weight of each piece in nats, stored share)."""
    static = study.plan(removed=removed, block=step, offered=is_static)
    plan = widened(static, pool=POOL, shared=0.5 if block > 1 else 0.0, block=block)
    weights = {
        module: pool_weights(study.pool(module, study.full), decision.pool)
        for module, decision in plan.decisions.items()
        if isinstance(decision, Routed)
    }
    return apply(study.model, study.planned(plan, make=of_one_basis)), weights, stored_share(plan)


def oracles(
    model: nn.Module, weights: Mapping[str, Tensor], judge: Judge
) -> Iterator[tuple[str, Pick]]:
    """(name, pick) of all oracles."""
    decisions = {name: layer.decision for name, layer in pools(model).items()}
    windows_PT, first = judge.windows_PT, torch.arange(judge.windows_PT.shape[1]) < PROMPT

    def energies(counted_T: Tensor) -> dict[str, Energies]:
        counted_PT = counted_T.long().expand(len(windows_PT), -1)
        return measure_energies(model, windows_PT, counted_PT=counted_PT, weights=weights)

    seen, behind = energies(first), energies(~first)
    yield "energy, output", oracle_pick(seen, decisions, "output")
    yield "energy, nats", oracle_pick(seen, decisions, "nats")
    yield "energy, shrunk", oracle_pick(seen, decisions, "nats", shrinkage=0.5)
    yield "hindsight, nats", oracle_pick(behind, decisions, "nats")


def rows_of(
    found: Calibrated,
    seed: int,
    removed: str,
    block: int,
    settings: MaskTraining,
    kinds: Sequence[Kind],
    shares: bool,
) -> Iterator[dict[str, Any]]:
    """All rows of one seed."""
    study, domains = found.study(seed), len(found.texts)
    model, weights, stored = pooled(study, removed, found.subject.block, block)
    judge = Judge.of(found.model, found.tests(seed), domains)
    fit, projection = prompts_of(found.model, [each.fit(seed) for each in found.texts], None)
    held, _ = prompts_of(found.model, [each.held(seed) for each in found.texts], projection)
    test, _ = prompts_of(found.model, [each.tests[seed] for each in found.texts], projection)
    base = {
        "model": found.subject.name,
        "seed": seed,
        "removed": removed,
        "block": block,
        "stored": stored,
    }
    yield {**base, "pick": "prefix", "kl": judge.kl(model)}
    for name, pick in oracles(model, weights, judge):
        yield {**base, "pick": name, "kl": judge.kl(model, pick)}

    def trained(kind: Kind, text: Prompts, start: TrainedMasks | None) -> TrainedMasks:
        made = best_learning_rate(
            model,
            (text.windows_PT, held.windows_PT),
            PROMPT,
            found.model,
            (text.features(kind), held.features(kind)),
            replace(settings, kind=kind, seed=seed),
            rates=(0.0, 1.0),
            start=start,
        )
        return made.masks

    static = trained("static", fit, None)
    for kind in kinds:
        masks = static if kind == "static" else trained(kind, fit, static)
        yield {**base, "pick": f"trained, {kind}", "kl": judge.kl(model, picks(masks, kind, test))}
    for name, places in training_texts(fit, seed) if shares else ():
        masks = trained("linear", fit.some(places), static)
        kl = judge.kl(model, picks(masks, "linear", test))
        yield {**base, "pick": f"linear on {name}", "kl": kl}


def picks(masks: TrainedMasks, kind: Kind, test: Prompts) -> Pick:
    """The picks of all test prompts."""
    found = masks.pick(test.features(kind))
    if kind != "static":
        return found
    count = len(test.windows_PT)
    return Pick({name: rows.expand(count, -1) for name, rows in found.blocks.items()})


def training_texts(fit: Prompts, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Parts of the training text: half, a quarter, and one domain alone."""
    count = len(fit.windows_PT)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    yield "50 %", order[: count // 2]
    yield "25 %", order[: count // 4]
    yield "the first domain alone", torch.nonzero(fit.known_PD[:, 0]).flatten()


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, and each pick against the prefix of its seed."""
    prefix = {_key(row): row["kl"][-1] for row in rows if row["pick"] == "prefix"}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["model"], row["removed"], row["block"], row["pick"])
        groups.setdefault(key, []).append(row)
    return [
        {
            "model": model,
            "removed": removed,
            "block": block,
            "pick": pick,
            "seeds": len(found),
            "stored": found[0]["stored"],
            "kl": spread([row["kl"][-1] for row in found]),
            "to_prefix": spread([row["kl"][-1] / prefix[_key(row)] - 1 for row in found]),
        }
        for (model, removed, block, pick), found in groups.items()
    ]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "removed", "block", "seed"))


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="KL to dense of picks inside one basis.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS], default=["stories260K"])
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--removed", nargs="+", default=["0.2"])
    parser.add_argument("--blocks", nargs="+", type=int, default=[8, 1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(SEEDS)])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=10, help="windows of a step (10)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--shares", action="store_true", help="how much training text it takes")
    parser.add_argument("--work", type=Path, help="folder for the statistics of one model")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for name in asked.models:
        found = calibrated(SUBJECTS[name], asked.data, asked.smollm2, asked.work)
        for removed in asked.removed:
            for block in asked.blocks:
                for seed in asked.seeds:
                    settings = MaskTraining(steps=asked.steps, batch=asked.batch)
                    for row in rows_of(
                        found, seed, removed, block, settings, asked.kinds, asked.shares
                    ):
                        rows.append(row)
                        print(json.dumps(row), flush=True)
    table = summary(rows)
    for line in table:
        kl, ratio = line["kl"], line["to_prefix"]
        print(
            f"{line['model']:12} {line['removed']} block {line['block']:2} {line['pick']:24} "
            f"KL {kl['mean']:.4f} ({kl['min']:.4f} .. {kl['max']:.4f})  {ratio['mean']:+.1%}"
        )
    results = {"steps": asked.steps, "summary": table, "rows": rows}
    print(record.write("parse_masks", results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
