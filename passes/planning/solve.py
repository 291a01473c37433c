"""Choose one candidate for every weight under the budget: curves and candidates -> plan.

Before:  q_proj: 8, 16, ..., 2040, dense    up_proj: 8, 16, ..., 3184, dense    budget 0.8
After:   q_proj: 1112    up_proj: dense    ...    proven optimal
"""

from dataclasses import dataclass

import numpy as np
from torch.fx import GraphModule

from gacfx.core.gacpass import GacPass, given, register
from gacfx.core.notes import Fact, matmuls, note, state
from gacfx.core.plan import Budget, Choice, Plan, Proof, Provenance
from gacfx.errors import InfeasibleBudget
from gacfx.planning import Group, Problem, Solution, check, solve


@register
@dataclass(frozen=True)
class Solve(GacPass):
    """Solve the multiple-choice knapsack over all targets, exactly, with a certificate."""

    name = "solve"
    needs = frozenset({Fact.TARGETS, Fact.CURVES, Fact.CANDIDATES})
    gives = frozenset({Fact.PLAN})
    required = frozenset({"budget"})

    budget: Budget | None = given()
    provenance: Provenance | None = given()
    wanted: dict[str, float] | None = given()
    """Module -> rank that the compressor would take by itself, for the report."""

    def run(self, gm: GraphModule) -> bool:
        assert self.budget is not None
        problem = make_problem(gm, self.budget)
        try:
            solution = solve(problem)
        except InfeasibleBudget as error:
            raise explain_infeasible(error, self.budget) from error
        proof = Proof(
            status=solution.status,
            value=solution.value,
            bound=solution.bound,
            gap=solution.gap,
            multiplier=solution.multiplier,
            usable_budget=solution.usable_budget,
            rounding_bound=solution.rounding_bound,
            certified_gap=certified_gap(problem, solution),
            candidates=int(solution.stats["candidates"]),
            seconds=float(solution.stats["seconds"]),
        )
        state(gm).plan = self.make_plan(gm, solution.choice, proof)
        return False

    def make_plan(self, gm: GraphModule, picks: tuple[int, ...], proof: Proof) -> Plan:
        """The plan that takes candidate ``picks[i]`` of target ``i``."""
        about, wanted = state(gm), self.wanted or {}
        assert about.curves is not None and about.candidates is not None and self.budget
        choices = []
        for (name, curve), pick in zip(about.curves.items(), picks, strict=True):
            rank = about.candidates[name][pick]
            loss = 0.0 if rank is None else float(curve.loss_nats[rank])
            reason = curve.failed
            if not reason and len(about.candidates[name]) == 1:
                reason = "no aligned rank is below break-even"
            choices.append(
                Choice(name, curve.rows, curve.columns, rank, wanted.get(name), loss, reason)
            )
        return Plan(
            choices=tuple(choices),
            budget=self.budget,
            proof=proof,
            provenance=self.provenance or Provenance("", "", "", 1, ""),
            refusals=refused_sites(gm),
        )


def make_problem(gm: GraphModule, budget: Budget) -> Problem:
    """Targets as groups, candidates as items, value = minus the loss in nats."""
    about = state(gm)
    assert about.curves is not None and about.candidates is not None
    groups = []
    for name, curve in about.curves.items():
        ranks = about.candidates[name]
        dense = curve.rows * curve.columns
        costs = [dense if r is None else curve.params(r) for r in ranks]
        values = [0.0 if r is None else -float(curve.loss_nats[r]) for r in ranks]
        labels = tuple("dense" if r is None else str(r) for r in ranks)
        groups.append(Group(name, np.array(costs, np.int64), np.array(values, np.float64), labels))
    return Problem(tuple(groups), budget.limit_params)


def certified_gap(problem: Problem, solution: Solution) -> float:
    """Bound minus value by the independent checker.

    Raises:
        PlanError: the checker found a fault in the solution.
    """
    certificate = check(problem, solution)
    certificate.require()
    return float(certificate.certified_gap)


def explain_infeasible(error: InfeasibleBudget, budget: Budget) -> InfeasibleBudget:
    """The same error with the shortfall and the smallest reachable ratio in the user's terms."""
    whole = budget.targeted_params if budget.ratio_of == "targeted" else budget.model_params
    outside = 0 if budget.ratio_of == "targeted" else budget.model_params - budget.targeted_params
    most = 1 - (error.needed + outside) / whole
    reach = f"The largest reachable ratio is {np.floor(most * 1e4) / 1e4:.4f}"
    if most <= 0:
        reach = "No aligned rank is below break-even; take a smaller alignment"
    return InfeasibleBudget(
        f"ratio {budget.ratio} of the {budget.ratio_of} weights leaves {budget.limit_params:,} "
        f"parameters, but the smallest plan needs {error.needed:,}: "
        f"{error.needed - budget.limit_params:,} too few. {reach}",
        needed=error.needed,
        budget=error.budget,
    )


def refused_sites(gm: GraphModule) -> dict[str, str]:
    """Module -> why it is not part of the plan."""
    found = {}
    for node, site in matmuls(gm):
        known = note(node)
        if known.targeted is False and site.weight is not None and known.refusals:
            found[site.name] = known.refusals[-1].reason
    return found
