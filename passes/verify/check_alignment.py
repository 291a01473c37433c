"""Check that every changed dimension is what the plan's alignment asks; reads weights, not notes.

Before:  q_proj.down.weight [1112, 4096]
After:   the same, or PassError: q_proj: rank 1107: 1107 is no multiple of 8
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core.plan import Plan
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.passes.verify.stored import stored_otherwise


@register
@dataclass(frozen=True)
class CheckAlignment(GacPass):
    """Every dim that a decision made is a multiple of the plan's alignment."""

    name = "check-alignment"
    required = frozenset({"plan"})

    plan: Plan | None = given()

    def run(self, gm: GraphModule) -> bool:
        return False

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        unit = self.plan.provenance.align
        for module, decision in self.plan.decisions.items():
            weight = self.plan.weights[module]
            if odd := stored_otherwise(gm, weight, decision):
                raise PassError(f"{self.name}: {odd}")
            for size in decision.sizes(weight.rows, weight.columns):
                if size % unit:
                    raise PassError(
                        f"{self.name}: {module}: {decision}: {size} is no multiple of {unit}"
                    )
