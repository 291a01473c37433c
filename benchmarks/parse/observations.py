"""The paper's observations, measured here: do prompts differ, alike prompts agree, and picks last?

    python -m benchmarks.parse.observations [--models babyllama stories260K] [--removed 0.4]

    windows       perplexity of single windows, dense and static (its Figures 1 and 9)
    calibration   KL of static plans that saw one domain, on every other one (Figure 2)
    similarity    overlap of what two prompts pick against the cosine of their embeddings (Figure 4)
    decoding      overlap of a prompt's pick with those of later tokens (Figure 5)
    batches       union of the picks of several prompts, as a share of what runs
    cache         hits of a pattern cache by its threshold, and what such a hit is worth

Picks are those of the oracle by nats of the prompt, in pools of 1.5 times the active rank.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.parse.masks import pooled
from benchmarks.parse.measure import Judge
from benchmarks.parse.subjects import SUBJECTS, Calibrated, calibrated
from benchmarks.parse.texts import PROMPT, TOKENS
from gacfx.applying import apply
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import means_of, picked, pools
from gacfx.routing.cache import PatternCache
from gacfx.routing.one_basis.oracle import measure_energies, oracle_pick
from gacfx.routing.study import is_static

STEP = 16
"""Tokens of a part of what follows."""
BATCHES = (2, 4, 8, 16)
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)


@torch.no_grad()
def nats_of(model: Any, windows_PT: Tensor) -> Tensor:
    """Nats per token of each window, float64 [P]."""
    found = []
    for part in windows_PT.split(8):
        logits = model(part, use_cache=False).logits[:, :-1].float()
        nats = nn.functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none"
        )
        found.append(nats.view(len(part), -1).double().mean(1))
    return torch.cat(found)


def windows(found: Calibrated, static: Any, seed: int) -> dict[str, Any]:
    """How much one window loses, and another."""
    at = [each.name for each in found.texts].index("wikitext")
    text_PT = torch.cat(found.texts[at].tests)
    with picked(static, None):
        ours = nats_of(static, text_PT)
    rise = (ours - nats_of(found.model, text_PT)).numpy()
    quantiles = np.quantile(rise, [0.0, 0.1, 0.5, 0.9, 1.0]).tolist()
    return {
        "windows": len(rise),
        "rise_nats": dict(zip(["min", "10%", "median", "90%", "max"], quantiles, strict=True)),
    }


def calibration(found: Calibrated, seed: int, removed: str) -> dict[str, dict[str, float]]:
    """Domain that a plan saw -> domain that it is tried on -> KL."""
    made: dict[str, dict[str, float]] = {}
    judge = Judge.of(found.model, found.tests(seed), len(found.texts))
    names = [each.name for each in found.texts]
    for name in [*names, ""]:
        study = found.study(seed, only=name)
        plan = study.plan(removed=removed, block=found.subject.block, offered=is_static)
        kl = judge.kl(apply(found.model, study.planned(plan)))
        made[name or "all"] = dict(zip([*names, "mean"], kl, strict=True))
    return made


def overlaps(one: Pick, other: Pick, fixed: Mapping[str, int]) -> Tensor:
    """Share of the blocks that were free to choose and that both picked: [P], mean of weights."""
    found = []
    for name, a_PB in one.blocks.items():
        b_PB = other.blocks[name]
        free = a_PB.shape[1] - fixed[name]
        if free:
            same = (a_PB[:, :, None] == b_PB[:, None, :]).any(2).sum(1) - fixed[name]
            found.append(same.double() / free)
    return torch.stack(found).mean(0)


def similarity(
    pick: Pick, fixed: Mapping[str, int], means_PF: Tensor, prefix: Pick
) -> dict[str, Any]:
    """Overlap of pairs of prompts against the cosine of their centred embeddings."""
    keys_PF = nn.functional.normalize(means_PF - means_PF.mean(0), dim=1)
    count = len(keys_PF)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(count, (2, 2000), generator=generator)
    a, b = a[a != b], b[a != b]
    cosine = (keys_PF[a] * keys_PF[b]).sum(1)
    overlap = overlaps(_at(pick, a), _at(pick, b), fixed)
    bins = {}
    for low in (-1.0, -0.25, 0.0, 0.25, 0.5, 0.75):
        high = {-1.0: -0.25, 0.75: 1.01}.get(low, low + 0.25)
        inside = (cosine >= low) & (cosine < high)
        if int(inside.sum()) >= 10:
            bins[f"{low:+.2f}"] = float(overlap[inside].mean())
    ranks = [torch.tensor(np.argsort(np.argsort(x.numpy()))).double() for x in (cosine, overlap)]
    correlation = float(torch.corrcoef(torch.stack(ranks))[0, 1])
    with_prefix = float(overlaps(pick, _repeated(prefix, count), fixed).mean())
    return {"by_cosine": bins, "spearman": correlation, "with_prefix": with_prefix}


def decoding(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    text_PT: Tensor,
    pick: Pick,
    fixed: Mapping[str, int],
) -> dict[str, float]:
    """Overlap of the pick of a prompt with those of the parts that follow it."""
    decisions = {name: layer.decision for name, layer in pools(model).items()}
    found = {}
    for start in range(PROMPT, TOKENS, STEP):
        counted_PT = torch.zeros_like(text_PT)
        counted_PT[:, start : start + STEP] = 1
        energies = measure_energies(model, text_PT, counted_PT=counted_PT, weights=weights)
        later = oracle_pick(energies, decisions)
        found[str(start - PROMPT + STEP)] = float(overlaps(pick, later, fixed).mean())
    return found


def batches(pick: Pick, active: Mapping[str, int]) -> dict[str, float]:
    """Size of a batch -> union of the picks of its prompts, as a share of what runs."""
    generator, made = torch.Generator().manual_seed(0), {}
    count = pick.sequences
    for size in BATCHES:
        shares = []
        for _ in range(64):
            rows = torch.randperm(count, generator=generator)[:size]
            union = sum(len(found[rows].unique()) for found in pick.blocks.values())
            shares.append(union / sum(active.values()))
        made[str(size)] = sum(shares) / len(shares)
    return made


def cached(pick: Pick, fixed: Mapping[str, int], means_PF: Tensor) -> dict[str, dict[str, float]]:
    """Threshold -> hits of prompts that come one after the other, and the overlap of a hit with
    what its prompt would have picked."""
    keys_PF = nn.functional.normalize(means_PF - means_PF.mean(0), dim=1)
    order = torch.randperm(len(keys_PF), generator=torch.Generator().manual_seed(0)).tolist()
    made = {}
    for threshold in THRESHOLDS:
        cache = PatternCache[int](256, threshold, "")
        pairs = []
        for at in order:
            known = cache.find(keys_PF[at])
            if known is None:
                cache.put(keys_PF[at], at)
            else:
                pairs.append((at, known))
        made[str(threshold)] = {"hits": cache.statistics().hit_rate}
        if pairs:
            a, b = torch.tensor(pairs).T
            made[str(threshold)]["overlap"] = float(
                overlaps(_at(pick, a), _at(pick, b), fixed).mean()
            )
    return made


def _at(pick: Pick, rows: Tensor) -> Pick:
    return Pick({name: found[rows] for name, found in pick.blocks.items()})


def _repeated(pick: Pick, count: int) -> Pick:
    return Pick({name: found.expand(count, -1) for name, found in pick.blocks.items()})


def observe(
    found: Calibrated, seed: int, removed: str, block: int, parts: Sequence[str]
) -> dict[str, Any]:
    """All observations of a model."""
    study = found.study(seed)
    model, weights, _ = pooled(study, removed, found.subject.block, block)
    layers = pools(model)
    fixed = {name: layer.decision.fixed for name, layer in layers.items()}
    active = {name: layer.decision.picks for name, layer in layers.items()}
    text_PT = found.tests(seed)
    counted_PT = (torch.arange(TOKENS) < PROMPT).long().expand(len(text_PT), -1)
    energies = measure_energies(model, text_PT, counted_PT=counted_PT, weights=weights)
    pick = oracle_pick(energies, {name: layer.decision for name, layer in layers.items()})
    prefix = Pick({name: torch.arange(active[name])[None] for name in layers})
    means_PF = means_of(found.model, text_PT[:, :PROMPT])
    made: dict[str, Any] = {"model": found.subject.name, "seed": seed, "removed": removed}
    made["block"] = block
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "windows": lambda: windows(found, model, seed),
        "calibration": lambda: calibration(found, seed, removed),
        "similarity": lambda: similarity(pick, fixed, means_PF, prefix),
        "decoding": lambda: decoding(model, weights, text_PT, pick, fixed),
        "batches": lambda: batches(pick, active),
        "cache": lambda: cached(pick, fixed, means_PF),
    }
    for name in parts or ways:
        made[name] = ways[name]()
        print(name, json.dumps(made[name]), flush=True)
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    default = Path(os.environ.get("GACFX_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description="What prompts pick, and how long it lasts.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS], default=["babyllama"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--removed", default="0.4")
    parser.add_argument("--blocks", nargs="+", type=int, default=[8, 1])
    parser.add_argument("--parts", nargs="*", default=[], help="of the observations")
    parser.add_argument("--work", type=Path, help="folder for the statistics of one model")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for name in asked.models:
        found = calibrated(SUBJECTS[name], asked.data, asked.smollm2, asked.work)
        rows += [
            observe(found, seed, asked.removed, block, asked.parts)
            for seed in asked.seeds
            for block in asked.blocks
        ]
    print(record.write("parse_observations", {"rows": rows}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
