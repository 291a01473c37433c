"""Plans that prune, and graphs after them."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.decision import Decision
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Choice, Weight
from gacfx.core.planned import Planned
from gacfx.core.pruning import Heads, Skip, Width
from gacfx.core.structures import Structure
from gacfx.coupling.structures import coupled_structures
from gacfx.graph.pipeline import Pipeline
from gacfx.passes.rewrite.prune import Prune
from tests.families.narrow import sliced
from tests.passes.graphs import (
    annotated,
    graph_of,
    model_of,
    planned,
    run,
)

MLP, ATTENTION = "model.layers.0.mlp", "model.layers.0.self_attn"
KEPT = tuple(unit for unit in range(88) if unit % 3)
"""Of 88 channels: 58."""


def structure(name: str = MLP, family: str = "llama") -> Structure:
    found = {each.name: each for each in coupled_structures(annotated(graph_of(family)))}
    return found[name]


def choice_of(found: Structure, decision: Decision, name: str = "") -> Choice:
    weights = tuple(Weight(m.module, m.rows, m.columns) for m in found.members)
    return Choice(name or found.name, weights, decision, None, 0.0)


def plan_of(
    *chosen: tuple[Structure, Width | Heads | Skip], family: str = "llama", align: int = 1
) -> Planned:
    """A plan with the slices of a model, and a budget that is just what they keep."""
    choices, factors = [], FactorSet()
    for each, decision in chosen:
        choices.append(choice_of(each, decision))
        factors |= sliced(model_of(family), each, decision)[0]
    like = planned(graph_of(family), {}, align=align).plan
    kept = sum(choice.params for choice in choices)
    budget = replace(like.budget, limit_params=kept)
    return Planned(replace(like, choices=tuple(choices), budget=budget), factors)


def prune(gm: GraphModule, made: Planned) -> GraphModule:
    return run(gm, Prune(plan=made.plan, factors=made.factors))


def rewrite(gm: GraphModule, made: Planned) -> GraphModule:
    Pipeline.parse(pipelines.REWRITE).bind(plan=made.plan, factors=made.factors).run(gm)
    return gm


def ids() -> Tensor:
    return torch.randint(3, 97, (3, 17), generator=torch.Generator().manual_seed(0))


def shape(gm: GraphModule, name: str) -> tuple[int, ...]:
    return tuple(gm.get_parameter(name).shape)
