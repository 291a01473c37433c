"""Find the free sizes of the model, which of them must be chosen together, and what can be pruned.

Before:  layers.0.mlp.gate_proj.weight [88, 48]   layers.0.mlp.down_proj.weight [48, 88]
After:   d6 = 88: gate_proj[0], up_proj[0], down_proj[1]      d1 = 48: ..., the residual stream
         layers.0.mlp: 88 channels, gate_proj, up_proj -> down_proj
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.coupling.analyse import dims_of
from gacfx.coupling.structures import analyse
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
        coupling = analyse(gm)
        state(gm).dims = dims_of(coupling.interpreter)
        state(gm).structures = coupling.structures
        return False
