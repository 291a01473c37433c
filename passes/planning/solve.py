"""Choose one candidate for every weight under the budget: curves and candidates -> plan.

Before:  q_proj: 8, 16, ..., 2040, dense    up_proj: 8, 16, ..., 3184, dense    budget 0.8
After:   q_proj: 1112    up_proj: dense    ...    proven optimal
"""

from dataclasses import dataclass, replace
from math import inf

from torch.fx import GraphModule

from gacfx.allocation.allocate import Case, solve_case
from gacfx.allocation.doubtful import warn_of_rising
from gacfx.core.plan import Budget, Provenance
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, state
from gacfx.passes.planning.read_graph import dense_reasons, refused_sites


@register
@dataclass(frozen=True)
class Solve(GacPass):
    """Solve the multiple-choice knapsack over all targets, with a certificate."""

    name = "solve"
    needs = frozenset({Fact.TARGETS, Fact.CURVES, Fact.CANDIDATES})
    gives = frozenset({Fact.PLAN})
    required = frozenset({"budget"})

    solver: str = "core"
    """core, dp and ilp (cbc, highs) are exact; greedy and round are GAC-v1's rules of thumb."""
    gap: float = 0.0
    """Stop once the plan is so close to the best one; of core alone."""
    time_limit: float = inf
    """Seconds; of core and integer programs."""
    budget: Budget | None = given()
    provenance: Provenance | None = given()
    wanted: dict[str, float] | None = given()
    """Module -> rank that the compressor would take by itself: shown, and where rules of thumb
    start."""

    def run(self, gm: GraphModule) -> bool:
        assert self.budget is not None
        curves = state(gm).curves or {}
        plan = solve_case(
            Case(curves, state(gm), dense_reasons(gm)),
            self.budget,
            solver=self.solver,
            gap=self.gap,
            time_limit=self.time_limit,
            wanted=self.wanted,
            provenance=self.provenance,
        )
        warn_of_rising(curves, state(gm).candidates or {})
        state(gm).plan = replace(plan, refusals=refused_sites(gm))
        return False
