"""Check the budget by counting the parameters of the weights themselves, not the plan's sums.

Before:  limit 5,932,000,000 for the targeted weights
After:   the same, or PassError: ... keeps 5,940,000,000, which is 8,000,000 too many
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core.plan import Plan
from gacfx.core.pruning import Gone
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register


@register
@dataclass(frozen=True)
class CheckBudget(GacPass):
    """Count what the planned modules hold and compare it with the limit."""

    name = "check-budget"
    required = frozenset({"plan"})

    plan: Plan | None = given()

    def run(self, gm: GraphModule) -> bool:
        return False

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        gone = {m for m, d in self.plan.decisions.items() if isinstance(d, Gone)}
        kept = sum(weight_params(gm, module) for module in self.plan.weights if module not in gone)
        limit = self.plan.budget.limit_params
        if kept > limit:
            raise PassError(
                f"{self.name}: the graph keeps {kept:,} of the targeted parameters, "
                f"{kept - limit:,} more than the limit {limit:,}"
            )


def weight_params(gm: GraphModule, module: str) -> int:
    """Parameters of the module, whatever became of its weight, without its bias."""
    inside = [(n, p) for n, p in gm.named_parameters() if n.startswith(f"{module}.")]
    kept = [p.numel() for n, p in inside if n.rpartition(".")[2] != "bias"]
    if not kept:
        raise PassError(f"check-budget: the graph has no weight of {module}")
    return sum(kept)
