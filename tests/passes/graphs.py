"""Graphs to try passes on: a toy net and a tiny Llama, captured once and copied for every test."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from gacfx.core.decision import Decision, LowRank, of_rank
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.planned import Planned
from gacfx.core.provenance import Provenance
from gacfx.core.sites import Site, Workload
from gacfx.graph import edit
from gacfx.graph.gacpass import GacPass
from gacfx.graph.notes import Fact, facts, sites
from gacfx.hardware import profile as profiles
from gacfx.hardware.profile import Profile
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.tracing.export import export_model
from tests.families.zoo import FAMILIES
from tests.svd import Svd

BATCH, SEQ = 3, 17
PREFILL = Workload(batch=1, seq=1024)
Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
DOWN0 = "model.layers.0.mlp.down_proj"


class Layer(nn.Module):
    """Attention with 3 heads of width 8, and an up and a down projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(20, 24)
        self.out = nn.Linear(24, 20, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, 20] -> [B, S, 20]."""
        heads = self.qkv(x).view(*x.shape[:2], 3, 8).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], 24))
        return out


class Net(nn.Module):
    """An embedding, two layers and a head: the smallest net with every kind of site in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 20)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(20, 11, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] -> [B, S, 11]."""
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        out: Tensor = self.head(x)
        return out


def ids(vocab: int = 11) -> Tensor:
    """[3, 17], the same at every call."""
    return torch.randint(0, vocab, (BATCH, SEQ), generator=torch.Generator().manual_seed(1))


@cache
def _net() -> GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return export_model(Net().eval(), {"ids": ids()})


@cache
def model_of(family: str) -> nn.Module:
    """The tiny random model of a family; not to be changed."""
    return FAMILIES[family].make()


@cache
def _captured(family: str) -> GraphModule:
    return export_model(model_of(family))


def net() -> GraphModule:
    """The toy net, not annotated; a copy over shared parameters."""
    return edit.fork(_net())


def graph_of(family: str) -> GraphModule:
    """The graph of a tiny model, not annotated; a copy over shared parameters."""
    return edit.fork(_captured(family))


def llama() -> GraphModule:
    """A tiny Llama of two layers, not annotated; a copy over shared parameters."""
    return graph_of("llama")


def run(gm: GraphModule, *passes: GacPass) -> GraphModule:
    """``gm`` after the passes."""
    for step in passes:
        step(gm)
    return gm


def annotated(gm: GraphModule) -> GraphModule:
    """``gm`` with sites and targets."""
    return run(gm, AnnotateSites(), SelectTargets())


def site_of(gm: GraphModule, name: str) -> tuple[Node, Site]:
    """The node and site called ``name``."""
    return next((node, site) for node, site in sites(gm) if site.name == name)


@cache
def h200() -> Profile:
    """The bundled profile of the H200."""
    return profiles.load("h200")


def text_of(gm: GraphModule) -> str:
    """Everything that a pass might change of the graph itself: nodes, parameters and shapes."""
    parameters = [f"{name} {tuple(p.shape)}" for name, p in gm.named_parameters()]
    return "\n".join([str(gm.graph), *parameters])


def snapshot(gm: GraphModule) -> tuple[str, list[object], frozenset[Fact]]:
    """All that a pass may leave behind on nodes and parameters; equal when nothing changed."""
    return text_of(gm), [n.meta.get("custom") for n in gm.graph.nodes], facts(gm)


def svd_factors(weight_OD: Tensor, rank: int) -> Factors:
    """A pair of that rank."""
    return Svd.of(weight_OD).factors(LowRank(rank))


def planned(
    gm: GraphModule,
    ranks: Mapping[str, int | Decision],
    *,
    dense: Iterable[str] = (),
    align: int = 1,
) -> Planned:
    """A plan with factors for Linear modules of ``gm``; its budget is just what it keeps.

    A number is the rank of a pair.
    """
    choices, factors = [], FactorSet()
    for name in (*ranks, *dense):
        weight = gm.get_parameter(f"{name}.weight")
        (rows, columns), asked = weight.shape, ranks.get(name)
        decision = asked if isinstance(asked, Decision) else of_rank(asked)
        choices.append(Choice.single(name, rows, columns, decision, None, 0.0))
        if not decision.is_dense:
            factors[name] = Svd.of(weight).factors(decision)
    whole = sum(c.dense_params for c in choices)
    kept = sum(c.params for c in choices)
    model = sum(p.numel() for p in gm.parameters())
    budget = Budget("0.2", "targeted", whole, model, kept)
    return Planned(Plan(tuple(choices), budget, None, provenance(align)), factors)


def provenance(align: int = 1) -> Provenance:
    """A provenance of which only the alignment matters."""
    return Provenance("svd", "two-sided", "h200", align, "fp32")


def with_limit(plan: Plan, limit_params: int) -> Plan:
    """The same plan under another budget."""
    return replace(plan, budget=replace(plan.budget, limit_params=limit_params))
