"""Hold all layers of one kind of projection to one size: candidates -> rules.

Before:  layers.0.mlp.up_proj: 512    layers.1.mlp.up_proj: dense     as the planner likes
After:   layers.0.mlp.up_proj and layers.1.mlp.up_proj take the same rank, or both stay dense
"""

from collections import defaultdict
from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, state
from gacfx.knapsack.limits import SameLabel


@register
@dataclass(frozen=True)
class TieLayers(GacPass):
    """One rank for all layers: weights whose names differ by layer numbers only, of one shape."""

    name = "tie-layers"
    needs = frozenset({Fact.CURVES, Fact.CANDIDATES})
    drops = frozenset({Fact.PLAN})

    def run(self, gm: GraphModule) -> bool:
        about = state(gm)
        assert about.curves is not None and about.candidates is not None
        kinds = defaultdict(list)
        for module, curve in about.curves.items():
            # A weight that can only stay dense has its reason; it must not hold back the others.
            if about.candidates[module] != (None,):
                kinds[kind_of(module), curve.rows, curve.columns].append(module)
        for (kind, *_), alike in kinds.items():
            if not set.intersection(*(set(about.candidates[module]) for module in alike)):
                raise PassError(
                    f"{self.name}: uniform wants one rank for the {len(alike)} weights {kind}, and "
                    "no rank is within the bounds of them all; loosen a bound or drop uniform"
                )
            if len(alike) > 1:
                about.rule(SameLabel(tuple(alike)))
        return False


def kind_of(module: str) -> str:
    """``model.layers.*.mlp.up_proj`` for any layer.

    ``model.layers.*.mlp.0`` as well: a number at the end tells one linear of a layer from another.
    """
    *path, last = module.split(".")
    return ".".join([*("*" if part.isdigit() else part for part in path), last])
