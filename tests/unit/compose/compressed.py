"""A tiny Llama with one layer of each kind, compressed without calibration, for other programs."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gacfx
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.plan import Choice
from gacfx.core.planned import Planned
from gacfx.core.statistics import weight_digest
from tests.families.narrow import attention, decision_of, mlp, plan_of
from tests.families.zoo import FAMILIES
from tests.svd import Svd

RANKS: dict[str, Decision] = {
    "model.layers.0.self_attn.q_proj": LowRank(8),
    "model.layers.0.self_attn.o_proj": Pivot(16),
    "model.layers.0.mlp.up_proj": Pivot(16),
    "model.layers.0.mlp.down_proj": LowRank(16),
}
"""Layer 1 loses a key-value head with its query heads, and half its channels."""


def dense() -> Any:
    """The same model at every call."""
    return FAMILIES["llama"].make()


@cache
def plan() -> Planned:
    """Pairs, pivots of both shapes, narrower MLP and fewer heads, with both locks."""
    model = dense()
    width, heads = mlp(model, "llama", 1), attention(model, "llama", 1)
    pruned = plan_of(
        model,
        (width, decision_of(width, tuple(range(0, 88, 2)))),
        (heads, decision_of(heads, (1,))),
    )
    choices, digests = list(pruned.plan.choices), dict(pruned.plan.digests)
    for name, decision in RANKS.items():
        weight = model.get_submodule(name).weight
        made = Svd.of(weight, name).factors(decision)
        pruned.factors[name] = made
        choices.append(Choice.single(name, made.rows, made.columns, decision, None, 0.001))
        digests[name] = weight_digest(weight)
    whole = sum(choice.dense_params for choice in choices)
    budget = replace(pruned.plan.budget, targeted_params=whole, limit_params=whole)
    plan = replace(pruned.plan, choices=tuple(choices), digests=digests, budget=budget)
    return Planned(plan, pruned.factors)


def small() -> Any:
    """The compressed model, its own at every call."""
    model = dense()
    gacfx.apply_(model, plan())
    return model


def folder(out: Path) -> Path:
    """The compressed model as gacfx writes it."""
    made = plan()
    return save_checkpoint(small(), None, out, plan=made.plan, factors=made.factors)


def ids() -> Tensor:
    """[3, 17]."""
    return FAMILIES["llama"].inputs()["input_ids"]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(ids()).logits
    return found


def error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference, relative to what is wanted."""
    return float(((found - wanted).norm() / wanted.norm()).detach())


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear in the repeated layers, those inside compressed layers as well."""
    found = model.named_modules()
    return {n: m for n, m in found if isinstance(m, nn.Linear) and ".layers." in n}
