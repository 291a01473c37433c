"""Small compressed Llamas in folders: pairs, pivots and pruned blocks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gacfx.applying import apply
from gacfx.calibration.text import Corpus
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.locks import fingerprint
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.planned import Planned
from gacfx.core.provenance import Provenance
from gacfx.core.statistics import weight_digest
from tests import tiny, two_kinds
from tests.families.narrow import attention, decision_of, mlp, plan_of
from tests.svd import Svd

LAYER = "model.layers.0"
DECISIONS: dict[str, Decision] = {
    f"{LAYER}.self_attn.q_proj": LowRank(8),
    f"{LAYER}.self_attn.o_proj": Pivot(16),
    f"{LAYER}.mlp.up_proj": Pivot(16),
    f"{LAYER}.mlp.down_proj": LowRank(12),
}
"""Of a dense model of one layer; ``gate_proj`` and others stay."""


def dense(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    return two_kinds.model(seed, **settings).to(dtype)


def planned(model: Any, decisions: Mapping[str, Decision] = DECISIONS) -> Planned:
    """A plan of these decisions, with both locks, and factors by truncation."""
    weights = {name: model.get_submodule(name).weight for name in decisions}
    factors = {n: Svd.of(w, n).factors(decisions[n], model.dtype) for n, w in weights.items()}
    choices = tuple(
        Choice.single(name, made.rows, made.columns, decisions[name], None, 0.001)
        for name, made in factors.items()
    )
    whole = sum(choice.dense_params for choice in choices)
    total = sum(parameter.numel() for parameter in model.parameters())
    short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[model.dtype]
    plan = Plan(
        choices=choices,
        budget=Budget("0.2", "targeted", whole, total, whole),
        proof=None,
        provenance=Provenance("svd", "two-sided", "h200", 1, short),
        fingerprint=fingerprint(model),
        digests={name: weight_digest(weight) for name, weight in weights.items()},
    )
    return Planned(plan, factors)


def pruned(model: Any) -> Planned:
    """Layer 0 as above, a narrower MLP and fewer heads in layer 1: a model of the zoo's size."""
    width, heads = mlp(model, "llama", 1), attention(model, "llama", 1)
    found = plan_of(
        model,
        (width, decision_of(width, tuple(range(0, 88, 2)))),
        (heads, decision_of(heads, (1,))),
    )
    more = planned(model, {f"{LAYER}.mlp.up_proj": Pivot(16)})
    digests = {**found.plan.digests, **more.plan.digests}
    plan = replace(found.plan, choices=(*found.plan.choices, *more.plan.choices), digests=digests)
    return Planned(plan, {**found.factors, **more.factors})


def folders(root: Path, model: Any | None = None, made: Planned | None = None) -> tuple[Path, Path]:
    """(compressed, dense) folders with a byte-level tokenizer."""
    model = dense() if model is None else model
    made = planned(model) if made is None else made
    model.save_pretrained(root / "dense")
    tiny.tokenizer().save_pretrained(root / "dense")
    small = apply(model, made)
    save_checkpoint(
        small,
        tiny.tokenizer(),
        root / "small",
        plan=made.plan,
        factors=made.factors,
        report={"a": 1},
    )
    return root / "small", root / "dense"


def corpus(count: int = 40, seed: int = 0) -> Corpus:
    """Windows of 96 tokens of words in random order."""
    return two_kinds.corpus("low", count, seed)


def text_file(path: Path, count: int = 40) -> Path:
    return two_kinds.text_file(path, two_kinds.texts("low", count))
