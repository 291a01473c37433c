"""From curves to a plan: the best candidate of every weight under a budget, with a certificate.

plan = allocate(curves, Goal(ratio="0.2"), profile=h200, search=Search())

A pure function of its arguments: no model, no graph, no torch.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

from gacfx.allocation.budget import make_budget, wanted_sizes
from gacfx.allocation.choosers import choose
from gacfx.allocation.doubtful import warn_of_costly
from gacfx.allocation.infeasible import explain
from gacfx.allocation.joint import Joint, joint
from gacfx.allocation.latency import ShareOfDense
from gacfx.allocation.offers import BY, Offers
from gacfx.allocation.problem import make_problem
from gacfx.allocation.shared import lacking, shared_joint
from gacfx.allocation.ties import tie_layers
from gacfx.core.curve_file import Curves
from gacfx.core.curves import Curve, ListedCurve
from gacfx.core.decision import Decision
from gacfx.core.goal import Goal
from gacfx.core.offered import Candidates, Offered
from gacfx.core.plan import Budget, Choice, LimitKept, Plan, Proof
from gacfx.core.provenance import Provenance, Trial
from gacfx.core.pruning import Each
from gacfx.core.search import DEFAULT_SEARCH, Prune, Search
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.sites import MatmulSite
from gacfx.core.structure_curves import StructureCurve
from gacfx.errors import GacError, InfeasibleBudget, PassError
from gacfx.hardware.contracts import chosen_align, rank_step
from gacfx.hardware.profile import Profile
from gacfx.knapsack import Problem, Solution, check


class Known(Protocol):
    """What candidates are listed from: a :class:`gacfx.core.curve_file.Curves`, for example."""

    @property
    def curves(self) -> Mapping[str, Curve]:
        """Module -> curve, in the order of the graph."""

    @property
    def structures(self) -> tuple[StructureCurve, ...]:
        """Those of coupled structures."""

    @property
    def shared(self) -> tuple[SharedCurve, ...]:
        """Those of weights that may share a basis."""

    @property
    def unshared(self) -> Mapping[str, str]:
        """Module -> why it keeps a basis of its own, where its type shares them."""


class Limiter(Protocol):
    """Says what plans may not do; see :class:`gacfx.graph.limiting.LimitingPass`."""

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        """Change what is offered."""


def allocate(
    curves: Curves,
    goal: Goal,
    *,
    profile: Profile,
    search: Search = DEFAULT_SEARCH,
    limiters: Sequence[Limiter] = (),
    trials: tuple[Trial, ...] = (),
    without: Mapping[str, Mapping[str, str]] | None = None,
) -> Plan:
    """The best plan, with the locks that the curves carry.

    Args:
        curves: of all targeted weights.
        goal: how much may remain.
        profile: GPU whose alignment the sizes follow.
        search: which sizes, and who chooses.
        limiters: the limits of the search, ready to run.
        trials: what was tried to choose the value model of the curves.
        without: module -> kind -> why the weight cannot have this kind of decision.

    Raises:
        PlanError: a bad goal, limit or rule.
        PassError: candidates that cannot be, or a solver that cannot keep what is asked.
        InfeasibleBudget: no plan keeps the goal and the limits.
    """
    facts = curves.facts
    align = chosen_align(search, profile, facts.provenance.dtype)
    budget = make_budget(facts, goal)
    wanted = wanted_sizes(curves, budget, search)
    offers = Offers.of(search, align, facts.provenance.method)
    case = offer(curves, offers, wanted, without or {}, limited=bool(limiters))
    sites = {weight.module: weight.site for weight in facts.weights}
    restrict(case, sites, search, limiters)
    provenance = replace(
        facts.provenance,
        gpu=profile.name,
        align=rank_step(align, search),
        search=replace(search, prune=offers.prune),  # without text, auto has become a menu
        trials=trials,
    )
    plan = solve_case(
        case,
        budget,
        solver=search.solver,
        gap=search.gap or 0.0,
        time_limit=search.time_limit,
        wanted=wanted,
        provenance=provenance,
    )
    return replace(
        plan,
        fingerprint=facts.fingerprint,
        digests=facts.digests,
        refusals=facts.refusals,
        unpruned=unpruned(curves.structures, search.prune),
    )


@dataclass(frozen=True, eq=False)
class Case:
    """What is offered for which curves, and why some weights are offered less."""

    curves: Mapping[str, Curve | Joint | ListedCurve]
    """Group -> what its candidates are worth, in the order of the graph."""
    offered: Offered
    reasons: Mapping[str, str]
    """Group -> why only the dense weight is offered."""
    lacks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Module -> kind -> why it is not offered."""


def offer(
    curves: Known,
    offers: Offers,
    wanted: Mapping[str, float] | None = None,
    without: Mapping[str, Mapping[str, str]] | None = None,
    *,
    limited: bool = False,
) -> Case:
    """The candidates of every structure, and of every weight that is in none; weights of one shape
    share them.

    Args:
        curves: of all targeted weights.
        offers: how candidates are listed.
        wanted: group -> d*, the rank or the units that a window stands around.
        without: module -> kind -> why the weight cannot have this kind of decision.
        limited: there will be further budgets.

    Raises:
        PassError: a weight for which nothing is left, or a bound that speaks of none.
    """
    known, wanted = curves.curves, wanted or {}
    without = lacking(without or {}, curves.unshared)
    structures = tuple(each for each in curves.structures if not each.facts.refused)
    names = [each.name for each in structures] + [each.name for each in curves.shared]
    offers.check_bounds({**known, **dict.fromkeys(names)})
    structures = structures if offers.prune != "none" else ()
    _check_values(known, structures)
    candidates, reasons = dict[str, Candidates](), dict[str, str]()
    members = {each.name: tuple(m.module for m in each.facts.members) for each in structures}
    owner = {module: each for each in structures for module in members[each.name]}
    shared = curves.shared if offers.prune == "none" else ()
    members |= {each.name: each.facts.members for each in shared}
    lends = {module: each for each in shared for module in members[each.name]}
    groups = dict[str, Curve | Joint]()
    alike = dict[object, tuple[Candidates, str]]()
    for module, curve in known.items():
        if module in owner:
            structure = owner[module]
            if structure.name not in groups:
                whole = [known[one] for one in members[structure.name]]
                size = wanted.get(structure.name)
                made = joint(
                    structure, whole, offers, without=without, wanted=size, limited=limited
                )
                groups[structure.name] = made
                candidates[structure.name] = made.candidates
            continue
        if module in lends:
            group = lends[module]
            if group.name not in groups:
                whole = [known[one] for one in members[group.name]]
                size = wanted.get(group.name)
                made = shared_joint(
                    group, whole, offers, without=without, wanted=size, limited=limited
                )
                groups[group.name] = made
                candidates[group.name] = made.candidates
            continue
        groups[module] = curve
        if offers.prune == "only":
            candidates[module], _ = offers.only().candidates(curve)
            reasons[module] = curve.failed or "belongs to no structure that can be pruned"
            continue
        lacks = without.get(module, {})
        size, bounds = wanted.get(module), offers.bounds_on(module)
        key = (curve.rows, curve.columns, curve.failed, size, bounds, tuple(lacks))
        if key not in alike:
            alike[key] = offers.without(*lacks).candidates(curve, size)
        candidates[module], reason = alike[key]
        if reason:
            reasons[module] = "; ".join((reason, *map(": ".join, lacks.items())))
    offered = Offered()
    offered.offer(candidates, members)
    return Case(groups, offered, reasons, without)


def _check_values(curves: Mapping[str, Curve], structures: Sequence[StructureCurve]) -> None:
    """Raise PassError where losses of two kinds would be added up."""
    models = {each.facts.value_model: each.name for each in structures}
    models |= {c.value_model: c.module for c in curves.values() if not c.failed and structures}
    if len(models) > 1:
        said = " and ".join(f"{model} (of {name})" for model, name in sorted(models.items()))
        raise PassError(
            f"{BY}: losses of {said} do not add up; measure weights and structures under one value"
        )


def unpruned(structures: Iterable[StructureCurve], search: Prune) -> dict[str, str]:
    """Structure -> why nothing of it was offered; empty where pruning was not asked for."""
    asked = structures if search != "none" else ()
    return {each.name: each.facts.refused for each in asked if each.facts.refused}


def restrict(
    case: Case, sites: Mapping[str, MatmulSite], search: Search, limiters: Sequence[Limiter]
) -> None:
    """Let a search and its limiters change what a case offers."""
    if search.uniform:
        tie_layers(sites, case.offered)
    for limiter in limiters:
        limiter.restrict(case.offered, sites)


def keeps_limits(plan: Plan, curves: Curves, limiters: Sequence[Limiter]) -> bool:
    """A plan whose decisions were changed after planning still keeps the limits of its search."""
    offered = Offered()
    several = {c.group: tuple(c.decisions) for c in plan.choices if len(c.weights) > 1}
    offered.offer({choice.group: (choice.decision,) for choice in plan.choices}, several)
    sites = {weight.module: weight.site for weight in curves.facts.weights}
    try:
        for limiter in limiters:
            limiter.restrict(offered, sites)
    except GacError:  # of a pass that takes such decisions for none of its own
        return False
    spent = ((sum(int(costs[0]) for costs in x.costs.values()), x.most) for x in offered.limits)
    return all(found <= most for found, most in spent)


def solve_case(
    case: Case,
    budget: Budget,
    *,
    solver: str = "core",
    gap: float = 0.0,
    time_limit: float | None = None,
    wanted: Mapping[str, float] | None = None,
    provenance: Provenance | None = None,
) -> Plan:
    """The best choice among what is offered, with budget, proof and reasons; no locks.

    Raises:
        PassError, PlanError, InfeasibleBudget: as :func:`allocate`.
    """
    problem = make_problem(case.curves, case.offered, budget.limit_params)
    assert case.offered.candidates is not None
    warn_of_costly(case.curves, case.offered.candidates)
    begin = time.perf_counter()
    limit = inf if time_limit is None else time_limit
    try:
        solution = choose(problem, solver, wanted, gap=gap, time_limit=limit)
    except InfeasibleBudget as error:
        stuck = sorted(set(case.reasons.values()))
        raise explain(error, problem, budget, stuck) from error
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
        solver=solver,
    )
    return Plan(
        choices=tuple(_choices(case, solution, wanted or {})),
        budget=budget,
        proof=proof,
        provenance=provenance or Provenance("", "", "", 1, ""),
        limits=tuple(limits_kept(problem, solution)),
        rules=len(problem.rules),
    )


def _choices(case: Case, solution: Solution, wanted: Mapping[str, float]) -> Iterator[Choice]:
    assert case.offered.candidates is not None
    for (name, curve), pick in zip(case.curves.items(), solution.choice, strict=True):
        offered = case.offered.candidates[name]
        reason = curve.failed or case.reasons.get(name, "")
        if not reason and all(each.is_dense for each in offered):
            reason = "no other size was offered"
        if isinstance(curve, Joint):
            yield from _joint_choices(curve, offered[pick], wanted)
            continue
        made = Choice.single(
            name,
            curve.rows,
            curve.columns,
            offered[pick],
            wanted.get(name),
            curve.loss(offered[pick]),
            reason,
        )
        yield replace(made, lacks=dict(case.lacks.get(name, {})))


def _joint_choices(
    joint: Joint, decision: Decision, wanted: Mapping[str, float]
) -> Iterator[Choice]:
    """The choice of a structure; where nothing of it goes, one for each of its weights."""
    if not isinstance(decision, Each):
        size = wanted.get(joint.name)
        yield Choice(joint.name, joint.weights, decision, size, joint.loss(decision))
        return
    for part, weight, curve in zip(decision.parts, joint.weights, joint.whole, strict=True):
        shape, size = (weight.rows, weight.columns), wanted.get(weight.module)
        loss = 0.0 if curve.failed else curve.loss(part)
        reason = curve.failed or (joint.sizeless if part.is_dense else "")
        yield Choice.single(weight.module, *shape, part, size, loss, reason)


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
