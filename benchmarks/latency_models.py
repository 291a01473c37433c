"""The models that :mod:`benchmarks.latency` runs: shapes, the sizes of variants, random weights."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from gacfx.compressors.allocate import allocate
from gacfx.core.decision import Decision, LowRank, Pivot, Stored
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.search import Search
from gacfx.modules.install import install_
from gacfx.replan import plan_from_curves, synthetic_curves

RATIO = 0.2
ALIGN = 8
SEED = 0
VOCABULARY = 1024
"""A small one: the heads of 49,152 and 128,256 tokens would outweigh a few layers."""
VARIANTS = ("dense", "unaligned", "aligned", "pivots")

Shapes = Mapping[str, tuple[int, int]]
"""Module -> (rows, columns)."""


@dataclass(frozen=True)
class Subject:
    """Shapes of a model."""

    name: str
    sizes: Mapping[str, Any]
    """Of a LlamaConfig."""


SUBJECTS = (
    Subject(
        "six layers of SmolLM2-135M",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
    ),
    Subject(
        "a layer of Llama-3.2-1B",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 1,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """What became of the weights."""

    subject: str
    variant: str
    params: int
    """Of the whole model."""
    kept: float
    """Share of the parameters of the targeted weights."""
    ranks: dict[str, list[int]]
    """Kind of projection -> the different ranks that it has."""


def dense_of(subject: Subject) -> Any:
    """The model in float32 with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(**subject.sizes, architectures=["LlamaForCausalLM"])
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def decisions_of(dense: Any) -> tuple[Shapes, dict[str, dict[str, Decision]]]:
    """(targeted weights, variant -> module -> what becomes of it).

    unaligned   the ranks that SVD-LLM takes: the same share of every weight
    aligned     GAC-v2's plan: multiples of 8 around these, under their budget
    pivots      the largest multiple of 8 with which a pivot keeps that share of the weight
    """
    with TemporaryDirectory() as folder:
        dense.config.save_pretrained(folder)
        curves = synthetic_curves(Path(folder), seed=SEED, value="paper", dtype="bf16")
    plan = plan_from_curves(curves, ratio=RATIO, search=Search.paper())
    shapes = {name: (each.rows, each.columns) for name, each in plan.weights.items()}
    uniform = {name: LowRank(r) for name, r in allocate(shapes, RATIO).items() if r is not None}
    pivots = {name: largest_pivot(*shape) for name, shape in shapes.items()}
    return shapes, {"unaligned": {**uniform}, "aligned": plan.decisions, "pivots": {**pivots}}


def largest_pivot(rows: int, columns: int) -> Pivot:
    """The largest aligned one that keeps no more than its share of a weight."""
    offers, _ = Pivot.offers(rows, columns, ALIGN)
    most = (1 - RATIO) * rows * columns
    fits = [each for each in offers if each.params(rows, columns) <= most]
    return max((each for each in fits if isinstance(each, Pivot)), key=lambda each: each.rank)


def random_factors(shapes: Shapes, decisions: Mapping[str, Decision]) -> FactorSet:
    """Factors that keep the size of what they multiply."""
    draw = torch.Generator().manual_seed(SEED)

    def made(stored: Stored) -> Tensor:
        if stored.integer:
            order: Tensor = torch.randperm(*stored.shape, generator=draw).int()
            return order
        return torch.randn(stored.shape, generator=draw).div_(stored.shape[-1] ** 0.5)

    found = {}
    for module, decision in decisions.items():
        shape = shapes[module]
        tensors = {name: made(each) for name, each in decision.tensors(*shape).items()}
        found[module] = Factors(decision, *shape, tensors)
    return found


def models_of(subject: Subject) -> tuple[dict[str, Any], list[Variant]]:
    """(variant -> model in float32, what is said of each)."""
    dense = dense_of(subject)
    shapes, chosen = decisions_of(dense)
    models, said = {"dense": dense}, []
    for name, decisions in chosen.items():
        models[name] = copy.deepcopy(dense)
        install_(models[name], random_factors(shapes, decisions))
    for name, model in models.items():
        decisions, whole = chosen.get(name, {}), sum(m * n for m, n in shapes.values())
        saved = sum(m * n - d.params(m, n) for k, d in decisions.items() for m, n in [shapes[k]])
        ranks: dict[str, set[int]] = {}
        for module, decision in decisions.items():
            assert decision.rank is not None
            ranks.setdefault(module.rpartition(".")[2], set()).add(decision.rank)
        of_kind = {kind: sorted(found) for kind, found in ranks.items()}
        kept = round(1 - saved / whole, 4)
        said.append(Variant(subject.name, name, model.num_parameters(), kept, of_kind))
    return models, said
