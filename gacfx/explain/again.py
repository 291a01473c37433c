"""The problem of a plan made again from its curves, and what of it the plan contradicts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from gacfx.allocation.allocate import Case, offer
from gacfx.allocation.budget import wanted_ranks
from gacfx.allocation.joint import Joint
from gacfx.allocation.offers import Offers
from gacfx.allocation.problem import make_problem
from gacfx.core.curve_file import Curves
from gacfx.core.curves import Curve, ListedCurve
from gacfx.core.decision import DENSE
from gacfx.core.offered import Candidates, Offered
from gacfx.core.plan import Choice, Plan
from gacfx.core.pruning import Each
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.structure_curves import StructureCurve
from gacfx.errors import PlanError, PlanMismatch
from gacfx.explain.values import PARAMETERS, Price
from gacfx.hardware.profile import Profile
from gacfx.knapsack import Problem
from gacfx.knapsack.limits import Label
from gacfx.replan import offers_again, problem_again

AGAIN = "save the curves with the plan (--save-curves)"
SUMMED = 1e-12
"""Relative difference of a sum of losses that rounding makes."""


Several = StructureCurve | SharedCurve
"""What is decided as a whole: a structure, or weights that may share a basis."""


def structure_of(plan: Plan, curves: Curves, name: str) -> Several | None:
    """The structure or group of this name, or with this weight, if it was decided as a whole."""
    found: list[Several] = [*curves.shared]
    if plan.provenance.search.prune != "none":
        found = [each for each in curves.structures if not each.facts.refused]
    return next((each for each in found if name in (each.name, *_modules(each))), None)


def _modules(whole: Several) -> tuple[str, ...]:
    """Those of its weights."""
    if isinstance(whole, SharedCurve):
        return whole.facts.members
    return tuple(member.module for member in whole.facts.members)


def choice_of(plan: Plan, curves: Curves, module: str) -> Choice:
    """What the plan chose for a module, or for the structure that it is a part of.

    Raises:
        PlanError: it is not in the plan; names the reason, or modules that are.
    """
    known = {choice.group: choice for choice in plan.choices}
    structure = structure_of(plan, curves, module)
    if structure is not None and structure.name not in known:
        return _unpruned(plan, structure)
    if structure is not None or module in known:
        return known[structure.name if structure else module]
    for choice in plan.choices:
        if module in choice.decisions:
            raise PlanMismatch(f"{module}: the curves know no structure {choice.group}; {AGAIN}")
    if module in plan.unpruned:
        raise PlanError(f"{module}: nothing of it was offered: {plan.unpruned[module]}")
    if module in plan.refusals:
        raise PlanError(f"{module}: was left out before planning: {plan.refusals[module]}")
    inside = [name for name in known if name.endswith(f".{module}")]
    close = inside or get_close_matches(module, known, n=3, cutoff=0.5) or list(known)
    raise PlanError(f"{module}: the plan has no such module; it has {', '.join(close[:3])}, ...")


def _unpruned(plan: Plan, structure: Several) -> Choice:
    """The choices of all weights of a structure of which nothing goes, as one.

    Raises:
        PlanMismatch: the plan does not have these weights.
    """
    alone = {choice.group: choice for choice in plan.choices if len(choice.weights) == 1}
    try:
        own = [alone[module] for module in _modules(structure)]
    except KeyError as error:
        raise PlanMismatch(f"{structure.name}: the plan has no {error.args[0]}; {AGAIN}") from error
    return Choice(
        structure.name,
        tuple(choice.weights[0] for choice in own),
        Each(tuple(choice.decision for choice in own)),
        None,
        sum(choice.loss_nats for choice in own),
        lacks={kind: why for choice in own for kind, why in choice.lacks.items()},
    )


def check_locks(plan: Plan, curves: Curves, choice: Choice) -> None:
    """Nothing when plan and curves are of one model.

    Raises:
        PlanMismatch: they are not.
    """
    facts, known = curves.facts, curves.curves
    for weight in choice.weights:
        name = weight.module
        if (
            facts.fingerprint != plan.fingerprint
            or facts.digests.get(name) != plan.digests.get(name)
            or name not in known
        ):
            raise PlanMismatch(f"{name}: plan and curves are of different models; {AGAIN}")
        curve = known[name]
        if (curve.rows, curve.columns) != (weight.rows, weight.columns):
            raise PlanMismatch(
                f"{name}: {weight.rows} x {weight.columns} in the plan, {curve.rows} x "
                f"{curve.columns} in the curves; {AGAIN}"
            )


def check_loss(
    plan: Plan, curves: Curves, choice: Choice, curve: Curve | Joint | ListedCurve
) -> None:
    """Nothing when the loss of a choice is the one that the curves have for it.

    Raises:
        PlanMismatch: the plan was made of other losses.
    """
    loss = -1.0  # of what the curves do not have
    if isinstance(curve, Joint):
        loss = curve.loss(choice.decision) if curve.has(choice.decision) else loss
    elif choice.decision.is_dense or not curve.failed:
        loss = curve.loss(choice.decision)
    # Losses of parts are added in another order.
    rounding = SUMMED * loss if isinstance(choice.decision, Each) else 0.0
    same = abs(loss - choice.loss_nats) <= rounding
    if curves.value_model != plan.provenance.value_model or not same:
        raise PlanMismatch(
            f"{choice.group}: the plan was made of other losses ({plan.provenance.value_model}) "
            f"than these curves hold ({curves.value_model}); {AGAIN}"
        )


def problem_around(
    plan: Plan,
    curves: Curves,
    choice: Choice,
    *,
    gpu: str | Profile | None,
    instead: Candidates | None = None,
) -> tuple[Problem, Case]:
    """The problem that a choice was made in, and what it offers; of that weight alone if nothing
    else matters.

    Args:
        plan: with limits and rules, or without.
        curves: those that it was made of.
        choice: the weight that is asked for.
        gpu: profile of the limits; None for the one that the plan names.
        instead: offered in place of what the plan's search offers.

    Raises:
        PlanError, ProfileError: as :func:`gacfx.replan.problem_again`.
        PlanMismatch: limits or rules come out other than they stand in the plan.
    """
    search = plan.provenance.search
    if not (search.limits or search.uniform):
        return _alone(plan, curves, choice, instead)
    if (
        instead is not None and len(choice.weights) == 1
    ):  # what limits and rules say then is not what the plan says
        return problem_again(curves, plan, gpu=gpu, instead={choice.group: instead})
    problem, case = problem_again(curves, plan, gpu=gpu)
    _check_same(problem, plan, labels_taken(plan, case.offered))
    return problem, case


def offers_of(plan: Plan, choice: Choice) -> Offers:
    """How the candidates of one weight were listed."""
    return offers_again(plan).without(*choice.lacks)


def _alone(
    plan: Plan, curves: Curves, choice: Choice, instead: Candidates | None
) -> tuple[Problem, Case]:
    if len(choice.weights) > 1:
        case = whole_case(plan, curves, choice, offers_again(plan))
        return make_problem(case.curves, case.offered, plan.budget.limit_params), case
    curve = curves.curves[choice.group]
    if plan.provenance.search.prune == "only":
        instead = (DENSE,)
    if instead is None:
        instead, _ = offers_of(plan, choice).candidates(curve, choice.wanted)
    offered = Offered({choice.group: instead})
    case = Case({choice.group: curve}, offered, {})
    return make_problem(case.curves, offered, plan.budget.limit_params), case


def whole_case(plan: Plan, curves: Curves, choice: Choice, offers: Offers) -> Case:
    """What a structure is offered, without limits and rules."""
    own = {weight.module: curves.curves[weight.module] for weight in choice.weights}
    structures = tuple(each for each in curves.structures if each.name == choice.group)
    shared = tuple(each for each in curves.shared if each.name == choice.group)
    wanted = wanted_ranks(curves.facts, plan.budget) if shared else None
    bounds = tuple(
        b for b in offers.bounds if any(fnmatchcase(n, b.pattern) for n in (*own, choice.group))
    )
    lacks = {w.module: c.lacks for c in plan.choices for w in c.weights}
    limited = bool(plan.provenance.search.limits)
    known = _Whole(own, structures, shared, {})
    return offer(known, replace(offers, bounds=bounds), wanted, lacks, limited=limited)


@dataclass(frozen=True)
class _Whole:
    """One structure or group."""

    curves: Mapping[str, Curve]
    structures: tuple[StructureCurve, ...]
    shared: tuple[SharedCurve, ...]
    unshared: Mapping[str, str]


def labels_taken(plan: Plan, offered: Offered) -> dict[str, Label]:
    """Group -> label of the candidate that the plan takes; also of structures that stay whole."""
    found = {choice.group: choice.decision.label for choice in plan.choices}
    parts = {module: part for choice in plan.choices for module, part in choice.decisions.items()}
    for name, modules in offered.members.items():
        if name not in found and parts.keys() >= {*modules}:
            found[name] = Each(tuple(parts[module] for module in modules)).label
    return found


def prices_of(plan: Plan) -> tuple[Price, ...]:
    """What a unit of the budget and of each limit is worth.

    Raises:
        PlanError: the plan was not solved.
    """
    if plan.proof is None:
        raise PlanError("the plan was not solved (ranks by formula), so it has no price to explain")
    price, kept = plan.proof.multiplier, plan.kept_params
    limits = (Price(x.name, x.unit, x.multiplier, x.spent, x.most) for x in plan.limits)
    return (Price(PARAMETERS, "", price, kept, plan.budget.limit_params), *limits)


def _check_same(problem: Problem, plan: Plan, labels: Mapping[str, Label]) -> None:
    """Raise PlanMismatch where limits or rules are not those that the plan keeps."""
    picks = _picks(problem, labels)
    here = [
        (x.name, x.most, sum(int(costs[picks[name]]) for name, costs in x.costs.items()))
        for x in problem.limits
    ]
    there = [(x.name, x.most, x.spent) for x in plan.limits]
    if here != there or len(problem.rules) != plan.rules:
        raise PlanMismatch(
            f"the search of the plan gives {_said(here, len(problem.rules))} here, but the plan "
            f"keeps {_said(there, plan.rules)}; name the profile that it was made for (--gpu, "
            "--torch, --cudnn), or plan again"
        )


def _picks(problem: Problem, labels: Mapping[str, Label]) -> dict[str, int]:
    try:
        return {group.name: group.index(labels[group.name]) for group in problem.groups}
    except (KeyError, PlanError) as error:
        raise PlanMismatch(
            f"the search of the plan does not offer here what it chose: {error}; {AGAIN}"
        ) from error


def _said(limits: list[tuple[str, int, int]], rules: int) -> str:
    found = [f"{name}: {spent:,} of {most:,}" for name, most, spent in limits]
    return ", ".join([*found, f"{rules} rules"])
