"""Find the free sizes of the model and which of them must be chosen together.

Before:  layers.0.mlp.gate_proj.weight [88, 48]   layers.0.mlp.down_proj.weight [48, 88]
After:   d6 = 88: gate_proj[0], up_proj[0], down_proj[1]      d1 = 48: ..., the residual stream
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.coupling.analyse import couple
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, state
from gacfx.graph.readable import check_readable


@register
@dataclass(frozen=True)
class CoupleDims(GacPass):
    """Follow every axis through the graph; what cannot be followed is frozen and recorded."""

    name = "couple-dims"
    gives = frozenset({Fact.DIMS})

    def run(self, gm: GraphModule) -> bool:
        check_readable(gm, self.name)
        state(gm).dims = couple(gm)
        return False
