"""Check that every changed dimension is what the plan's alignment asks; reads weights, not notes.

Before:  q_proj.down.weight [1112, 4096]
After:   the same, or PassError: q_proj: rank 1107 is no multiple of 8
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core.plan import Plan
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register


@register
@dataclass(frozen=True)
class CheckAlignment(GacPass):
    """Every rank in the graph's weights is a multiple of the plan's alignment."""

    name = "check-alignment"
    required = frozenset({"plan"})

    plan: Plan | None = given()

    def run(self, gm: GraphModule) -> bool:
        return False

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        unit = self.plan.provenance.align
        for module in self.plan.ranks:
            rank = gm.get_parameter(f"{module}.down.weight").shape[0]
            if rank % unit:
                raise PassError(f"{self.name}: {module}: rank {rank} is no multiple of {unit}")
