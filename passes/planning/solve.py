"""Choose one candidate for every weight under the budget: curves and candidates -> plan.

Before:  q_proj: 8, 16, ..., 2040, dense    up_proj: 8, 16, ..., 3184, dense    budget 0.8
After:   q_proj: 1112    up_proj: dense    ...    proven optimal
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from torch.fx import GraphModule

from gacfx.core.curves import Curve
from gacfx.core.plan import Budget, Choice, LimitKept, Plan, Proof, Provenance
from gacfx.errors import InfeasibleBudget, PassError
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, matmuls, note, state, targets
from gacfx.knapsack import Group, Problem, Solution, check
from gacfx.knapsack.limits import Implies, Limit, SameLabel
from gacfx.passes.planning.choosers import choose
from gacfx.passes.planning.doubtful import warn_of_doubtful
from gacfx.passes.planning.infeasible import explain
from gacfx.passes.planning.limit_latency import ShareOfDense
from gacfx.passes.planning.sweep_candidates import Sizes

DENSE = "dense"
"""Label of the candidate that keeps a weight as it is; the others are labelled by their rank."""


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
        problem = make_problem(gm, self.budget)
        warn_of_doubtful(state(gm).curves or {}, state(gm).candidates or {})
        begin = time.perf_counter()
        try:
            solution = choose(
                problem, self.solver, self.wanted, gap=self.gap, time_limit=self.time_limit
            )
        except InfeasibleBudget as error:
            stuck = sorted(set(dense_reasons(gm).values()))
            raise explain(error, problem, self.budget, stuck) from error
        seconds = time.perf_counter() - begin
        proof = Proof(
            status=solution.status,
            value=solution.value,
            bound=solution.bound,
            gap=solution.gap,
            multiplier=solution.multiplier,
            usable_budget=solution.usable_budget,
            rounding_bound=solution.rounding_bound,
            certified_gap=certified_gap(problem, solution),
            candidates=sum(len(group.costs) for group in problem.groups),
            seconds=seconds,
            solver=self.solver,
        )
        state(gm).plan = self.make_plan(gm, problem, solution, proof)
        return False

    def make_plan(
        self, gm: GraphModule, problem: Problem, solution: Solution, proof: Proof
    ) -> Plan:
        """The plan that takes candidate ``solution.choice[i]`` of target ``i``."""
        about, wanted = state(gm), self.wanted or {}
        assert about.curves is not None and about.candidates is not None and self.budget
        reasons, choices = dense_reasons(gm), []
        for (name, curve), pick in zip(about.curves.items(), solution.choice, strict=True):
            rank = about.candidates[name][pick]
            loss = 0.0 if rank is None else float(curve.loss_nats[rank])
            reason = curve.failed
            if not reason and about.candidates[name] == (None,):
                reason = reasons.get(name, "no other size was offered")
            choices.append(
                Choice(name, curve.rows, curve.columns, rank, wanted.get(name), loss, reason)
            )
        return Plan(
            choices=tuple(choices),
            budget=self.budget,
            proof=proof,
            provenance=self.provenance or Provenance("", "", "", 1, ""),
            refusals=refused_sites(gm),
            limits=tuple(limits_kept(problem, solution)),
            rules=len(problem.rules),
        )


def make_problem(gm: GraphModule, budget: Budget) -> Problem:
    """Targets as groups, candidates as items, value = minus the loss; limits and rules as given.

    Raises:
        PassError: a candidate that is no size of its weight, or a limit or rule of another kind.
        PlanError: a limit or rule that speaks of what is not there.
    """
    about = state(gm)
    assert about.curves is not None and about.candidates is not None
    for limit in about.limits:
        if not isinstance(limit, Limit):
            raise PassError(f"solve: limit {limit!r} is no gacfx.knapsack.limits.Limit")
    for rule in about.rules:
        if not isinstance(rule, SameLabel | Implies):
            raise PassError(f"solve: rule {rule!r} is neither SameLabel nor Implies")
    axes: dict[tuple[int, int, Sizes], Axis] = {}
    groups = []
    for name, curve in about.curves.items():
        sizes = about.candidates[name]
        key = (curve.rows, curve.columns, sizes)
        if key not in axes:
            axes[key] = Axis.make(curve, sizes)
        groups.append(axes[key].group(curve))
    return Problem(tuple(groups), budget.limit_params, about.limits, about.rules)


@dataclass(frozen=True, eq=False)
class Axis:
    """Candidates of one shape of weight: the solver looks at shared arrays only once."""

    ranks: np.ndarray[tuple[int], np.dtype[np.int64]]
    """[candidates] the rank; -1 for the dense weight."""
    costs: np.ndarray[tuple[int], np.dtype[np.int64]]
    labels: tuple[int | str, ...]

    @staticmethod
    def make(curve: Curve, sizes: Sizes) -> "Axis":
        """The candidates of a weight.

        Raises:
            PassError: there is none, or one that is no rank of the weight.
        """
        most = min(curve.rows, curve.columns)
        wrong = [size for size in sizes if size is not None and not 1 <= size <= most]
        if wrong or not sizes:
            what = f"rank {wrong[0]} is outside 1 .. {most}" if wrong else "no candidate is left"
            raise PassError(f"solve: {curve.module}: {what}; look at the pass that lists them")
        ranks = np.array([-1 if size is None else size for size in sizes], np.int64)
        dense = curve.rows * curve.columns
        costs = np.where(ranks < 0, dense, ranks * (curve.rows + curve.columns))
        costs.setflags(write=False)
        return Axis(ranks, costs, tuple(DENSE if size is None else size for size in sizes))

    def group(self, curve: Curve) -> Group:
        """One weight of this shape."""
        values = np.zeros(len(self.ranks))
        pair = self.ranks >= 0
        values[pair] = -curve.loss_nats[self.ranks[pair]]
        return Group(curve.module, self.costs, values, self.labels)


def certified_gap(problem: Problem, solution: Solution) -> float:
    """Bound minus value by the independent checker, whoever found the solution.

    Raises:
        PlanError: the checker found a fault in the solution.
    """
    certificate = check(problem, solution)
    certificate.require()
    return float(certificate.certified_gap)


def limits_kept(problem: Problem, solution: Solution) -> Iterator[LimitKept]:
    """What the plan spends under every limit, and what a unit of it is worth."""
    picks = {g.name: pick for g, pick in zip(problem.groups, solution.choice, strict=True)}
    for limit, multiplier in zip(problem.limits, solution.limit_multipliers, strict=True):
        spent = sum(int(costs[picks[name]]) for name, costs in limit.costs.items())
        kept = LimitKept(limit.name, limit.most, spent, multiplier=multiplier)
        if isinstance(limit, ShareOfDense):
            kept = replace(kept, unit=limit.unit, dense=limit.dense, source=limit.source)
        yield kept


def dense_reasons(gm: GraphModule) -> dict[str, str]:
    """Target -> why it has no other candidate than the dense weight."""
    return {s.name: note(n).refusals[-1].reason for n, s in targets(gm) if note(n).refusals}


def refused_sites(gm: GraphModule) -> dict[str, str]:
    """Module -> why it is not part of the plan."""
    found = {}
    for node, site in matmuls(gm):
        known = note(node)
        if known.targeted is False and site.weight is not None and known.refusals:
            found[site.name] = known.refusals[-1].reason
    return found
