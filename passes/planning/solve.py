"""Choose one candidate for every weight under the budget: curves and candidates -> plan.

Before:  q_proj: 8, 16, ..., 2040, dense    up_proj: 8, 16, ..., 3184, dense    budget 0.8
After:   q_proj: 1112    up_proj: dense    ...    proven optimal
"""

from dataclasses import dataclass, replace
from math import inf

from torch.fx import GraphModule

from gacfx.allocation.allocate import Case, solve_case, unpruned
from gacfx.allocation.doubtful import warn_of_rising
from gacfx.allocation.joint import Joint
from gacfx.core.curves import Curve
from gacfx.core.plan import Budget
from gacfx.core.provenance import Provenance
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
        about = state(gm)
        curves = about.curves or {}
        plan = solve_case(
            Case(_groups(gm), about, dense_reasons(gm)),
            self.budget,
            solver=self.solver,
            gap=self.gap,
            time_limit=self.time_limit,
            wanted=self.wanted,
            provenance=self.provenance,
        )
        warn_of_rising(curves, about.candidates or {})
        lost = {} if about.joints is None else unpruned(about.structure_curves, "both")
        about.plan = replace(plan, refusals=refused_sites(gm), unpruned=lost)
        return False


def _groups(gm: GraphModule) -> dict[str, Curve | Joint]:
    """What is decided together -> what its candidates are worth, in the order of the graph."""
    about, found = state(gm), dict[str, Curve | Joint]()
    joints: dict[str, Joint] = about.joints or {}
    owners = {weight.module: joint for joint in joints.values() for weight in joint.weights}
    for module, curve in (about.curves or {}).items():
        own = owners.get(module)
        found.setdefault(own.name if own else module, own or curve)
    return found
