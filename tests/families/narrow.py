"""Structures of the families of the zoo, made by hand, and what pruning them means.

Two ways to the same function: the model with the units sliced away by gacfx, and the dense model
with zeros in their place.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gacfx.core.decision import DENSE, Decision
from gacfx.core.locks import fingerprint
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Budget, Choice, Plan, Weight
from gacfx.core.planned import Planned
from gacfx.core.provenance import Provenance
from gacfx.core.pruning import GONE, Heads, Skip, Sliced, Width
from gacfx.core.statistics import weight_digest
from gacfx.core.structures import Member, Positions, Structure
from gacfx.modules.blocks import Blocks
from gacfx.modules.dense import features, is_conv1d, weight_of

HEADS = 6


def along(pattern: Sequence[tuple[int, int]], numbers: int) -> Positions:
    """Positions of (unit, head) pairs with ``numbers`` positions each."""
    pairs = np.repeat(np.array(pattern, dtype=np.int64), numbers, axis=0)
    return Positions(pairs[:, 0], pairs[:, 1])


def queries(groups: int) -> list[tuple[int, int]]:
    """(unit, head) of every query head."""
    each = HEADS // groups
    return [(head // each, head % each) for head in range(HEADS)]


def shared(groups: int) -> list[tuple[int, int]]:
    """(unit, -1) of every key-value head; its query heads share it."""
    return [(unit, -1) for unit in range(groups)]


@dataclass(frozen=True)
class Layout:
    """How a family names and packs the weights of its blocks; {} is the number of the layer."""

    attention: str = "model.layers.{}.self_attn"
    q: tuple[str, ...] = ("q_proj",)
    kv: tuple[str, ...] = ("k_proj", "v_proj")
    o: str = "o_proj"
    packed: str = ""
    """``qkv`` blocks, or ``heads`` times qkv, in the one weight q."""
    groups: int = 2
    head_dim: int = 8
    mlp: str = "model.layers.{}.mlp"
    opening: tuple[str, ...] = ("gate_proj", "up_proj")
    closing: str = "down_proj"


_GPT2 = Layout(
    attention="transformer.h.{}.attn",
    q=("c_attn",),
    kv=(),
    o="c_proj",
    packed="qkv",
    groups=HEADS,
    mlp="transformer.h.{}.mlp",
    opening=("c_fc",),
    closing="c_proj",
)
_OPT = Layout(
    attention="model.decoder.layers.{}.self_attn",
    o="out_proj",
    groups=HEADS,
    mlp="model.decoder.layers.{}",
    opening=("fc1",),
    closing="fc2",
)
_NEOX = Layout(
    attention="gpt_neox.layers.{}.attention",
    q=("query_key_value",),
    kv=(),
    o="dense",
    packed="heads",
    groups=HEADS,
    mlp="gpt_neox.layers.{}.mlp",
    opening=("dense_h_to_4h",),
    closing="dense_4h_to_h",
)
_BERT = Layout(
    attention="bert.encoder.layer.{}.attention",
    q=("self.query",),
    kv=("self.key", "self.value"),
    o="output.dense",
    groups=HEADS,
    mlp="bert.encoder.layer.{}",
    opening=("intermediate.dense",),
    closing="output.dense",
)
_T5 = Layout(
    attention="encoder.block.{}.layer.0.SelfAttention",
    q=("q",),
    kv=("k", "v"),
    o="o",
    groups=HEADS,
    mlp="encoder.block.{}.layer.1.DenseReluDense",
    opening=("wi_0", "wi_1"),
    closing="wo",
)
_VIT = Layout(
    attention="vit.layers.{}.attention",
    groups=HEADS,
    mlp="vit.layers.{}.mlp",
    opening=("fc1",),
    closing="fc2",
)
LAYOUTS: dict[str, Layout] = {
    "llama": Layout(),
    "qwen2": Layout(),
    "qwen3": Layout(head_dim=12),
    "mistral": Layout(),
    "gemma3": Layout(head_dim=12),
    "phi3": Layout(q=("qkv_proj",), kv=(), packed="qkv", opening=("gate_up_proj",)),
    "gpt2": _GPT2,
    "opt": _OPT,
    "gptneox": _NEOX,
    "bert": _BERT,
    "mixtral": Layout(opening=()),
    "qwen3moe": Layout(head_dim=12, opening=()),
    "t5": _T5,
    "vit": _VIT,
    "deepseekv3": Layout(
        q=("q_b_proj",), kv=("kv_b_proj",), groups=HEADS, packed="latent", opening=()
    ),
}


def attention(model: nn.Module, family: str, layer: int) -> Structure:
    """The attention of a layer."""
    lay = LAYOUTS[family]
    name = lay.attention.format(layer)
    own, kv = queries(lay.groups), shared(lay.groups)
    openers: dict[str, Positions]
    if lay.packed == "qkv":
        openers = {lay.q[0]: along([*own, *kv, *kv], lay.head_dim)}
    elif lay.packed == "heads":
        openers = {lay.q[0]: along(own, 3 * lay.head_dim)}
    elif lay.packed == "latent":
        openers = {lay.q[0]: along(own, 12), lay.kv[0]: along(own, 18)}
    else:
        openers = {each: along(own, lay.head_dim) for each in lay.q}
        openers |= {each: along(kv, lay.head_dim) for each in lay.kv}
    value = 10 if lay.packed == "latent" else lay.head_dim
    closing = along(own, value)
    members = [_member(model, f"{name}.{each}", outputs=at) for each, at in openers.items()]
    members.append(_member(model, f"{name}.{lay.o}", inputs=closing))
    return Structure(name, "heads", lay.groups, HEADS // lay.groups, tuple(members))


def mlp(model: nn.Module, family: str, layer: int) -> Structure:
    """The MLP of a layer; without members where the family has experts."""
    lay = LAYOUTS[family]
    name = lay.mlp.format(layer)
    channels = [(unit, -1) for unit in range(88)]
    several = 2 if family == "phi3" else 1
    members = [
        _member(model, f"{name}.{each}", outputs=along(channels * several, 1))
        for each in lay.opening
    ]
    if members:
        members.append(_member(model, f"{name}.{lay.closing}", inputs=along(channels, 1)))
    return Structure(name, "width", 88, 1, tuple(members))


def _member(
    model: nn.Module,
    module: str,
    outputs: Positions | None = None,
    inputs: Positions | None = None,
) -> Member:
    rows, columns = features(model.get_submodule(module))
    for positions, size in ((outputs, rows), (inputs, columns)):
        assert positions is None or len(positions.units) == size, module
    return Member(module, rows, columns, outputs, inputs)


def decision_of(
    structure: Structure,
    units: tuple[int, ...],
    heads: tuple[tuple[int, ...], ...] | None = None,
    rest: Decision = DENSE,
) -> Width | Heads:
    """The decision that these units stay."""
    parts = []
    for member in structure.members:
        out = _kept(member.outputs, member.rows, units, heads)
        into = _kept(member.inputs, member.columns, units, heads)
        parts.append(Sliced(len(out), len(into), rest))
    if structure.kind == "width":
        return Width(tuple(parts), units)
    every = tuple(tuple(range(structure.heads)) for _ in units)
    return Heads(tuple(parts), units, heads or every)


def _kept(
    positions: Positions | None,
    size: int,
    units: tuple[int, ...],
    heads: tuple[tuple[int, ...], ...] | None,
) -> Tensor:
    if positions is None:
        return torch.arange(size)
    return torch.from_numpy(positions.kept(units, heads))


def sliced(
    model: nn.Module, structure: Structure, decision: Width | Heads | Skip
) -> tuple[FactorSet, Blocks]:
    """(factors, blocks) of a decision: the weights without the units, or gone."""
    if isinstance(decision, Skip):
        gone = {m.module: Factors(GONE, m.rows, m.columns, {}) for m in structure.members}
        return gone, {structure.name: decision}
    units = decision.kept if isinstance(decision, Width) else decision.groups
    heads = decision.heads if isinstance(decision, Heads) else None
    factors = {}
    for member, part in zip(structure.members, decision.parts, strict=True):
        out = _kept(member.outputs, member.rows, units, heads)
        into = _kept(member.inputs, member.columns, units, heads)
        layer = model.get_submodule(member.module)
        weight = weight_of(layer).detach()
        weight = (weight.T if is_conv1d(layer) else weight)[out][:, into]
        order = None if member.outputs is None else out.to(torch.int32)
        made = {"weight": weight.contiguous()}
        factors[member.module] = Factors(part, member.rows, member.columns, made, order)
    return factors, {} if isinstance(decision, Width) else {structure.name: decision}


def masked(model: nn.Module, structure: Structure, decision: Width | Heads | Skip) -> nn.Module:
    """A copy with zeros in the place of what goes."""
    made = copy.deepcopy(model)
    units: tuple[int, ...] = ()
    heads = None
    if isinstance(decision, Width):
        units = decision.kept
    elif isinstance(decision, Heads):
        units, heads = decision.groups, decision.heads
    for member in structure.members:
        layer = made.get_submodule(member.module)
        weight = weight_of(layer).data
        weight = weight.T if is_conv1d(layer) else weight
        if isinstance(decision, Skip):
            if member.closes:
                weight.zero_()
                if isinstance(layer.bias, Tensor):
                    layer.bias.data.zero_()
            continue
        gone = torch.ones(member.rows, dtype=torch.bool)
        gone[_kept(member.outputs, member.rows, units, heads)] = False
        weight[gone] = 0
        if isinstance(layer.bias, Tensor):
            layer.bias.data[gone] = 0
        gone = torch.ones(member.columns, dtype=torch.bool)
        gone[_kept(member.inputs, member.columns, units, heads)] = False
        weight[:, gone] = 0
    return made


def plan_of(model: Any, *chosen: tuple[Structure, Width | Heads | Skip]) -> Planned:
    """The plan of these decisions, with both locks, and its factors; the model is dense."""
    factors: FactorSet = {}
    choices = []
    for structure, decision in chosen:
        factors |= sliced(model, structure, decision)[0]
        weights = tuple(Weight(m.module, m.rows, m.columns) for m in structure.members)
        choices.append(Choice(structure.name, weights, decision, None, 0.001))
    dense = sum(choice.dense_params for choice in choices)
    total = sum(parameter.numel() for parameter in model.parameters())
    plan = Plan(
        choices=tuple(choices),
        budget=Budget("0.2", "targeted", dense, total, dense),
        proof=None,
        provenance=Provenance("svd", "two-sided", "h200", 1, "float32"),
        fingerprint=fingerprint(model),
        digests={name: weight_digest(model.get_submodule(name).weight) for name in factors},
    )
    return Planned(plan, factors)
