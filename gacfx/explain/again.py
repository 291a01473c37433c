"""The problem of a plan made again from its curves, and what of it the plan contradicts."""

from collections.abc import Mapping
from difflib import get_close_matches

from gacfx.allocation.allocate import Case
from gacfx.allocation.offers import Offers
from gacfx.allocation.problem import make_problem
from gacfx.core.curve_file import Curves
from gacfx.core.curves import Curve
from gacfx.core.offered import Candidates, Offered
from gacfx.core.plan import Choice, Plan
from gacfx.errors import PlanError, PlanMismatch
from gacfx.explain.values import PARAMETERS, Price
from gacfx.hardware.profile import Profile
from gacfx.knapsack import Problem
from gacfx.knapsack.limits import Label
from gacfx.replan import offers_again, problem_again

AGAIN = "save the curves with the plan (--save-curves)"


def choice_of(plan: Plan, module: str) -> Choice:
    """What the plan chose for a module.

    Raises:
        PlanError: it is not in the plan; names the reason, or modules that are.
    """
    known = {choice.group: choice for choice in plan.choices}
    if module in known:
        return known[module]
    if module in plan.refusals:
        raise PlanError(f"{module}: was left out before planning: {plan.refusals[module]}")
    inside = [name for name in known if name.endswith(f".{module}")]
    close = inside or get_close_matches(module, known, n=3, cutoff=0.5) or list(known)
    raise PlanError(f"{module}: the plan has no such module; it has {', '.join(close[:3])}, ...")


def curve_of(plan: Plan, curves: Curves, choice: Choice) -> Curve:
    """The curve that a choice was made of.

    Raises:
        PlanMismatch: the curves are those of another model or calibration.
    """
    facts = curves.facts
    if (
        facts.fingerprint != plan.fingerprint
        or facts.digests.get(choice.group) != plan.digests.get(choice.group)
        or choice.group not in (known := curves.curves)
    ):
        raise PlanMismatch(f"{choice.group}: plan and curves are of different models; {AGAIN}")
    curve = known[choice.group]
    weight = choice.weights[0]
    if (curve.rows, curve.columns) != (weight.rows, weight.columns):
        raise PlanMismatch(
            f"{choice.group}: {weight.rows} x {weight.columns} in the plan, {curve.rows} x "
            f"{curve.columns} in the curves; {AGAIN}"
        )
    replaced = not choice.decision.is_dense
    loss = -1.0 if curve.failed and replaced else curve.loss(choice.decision)
    if curves.value_model != plan.provenance.value_model or loss != choice.loss_nats:
        raise PlanMismatch(
            f"{choice.group}: the plan was made of other losses ({plan.provenance.value_model}) "
            f"than these curves hold ({curves.value_model}); {AGAIN}"
        )
    return curve


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
    if instead is not None:  # what limits and rules say then is not what the plan says
        return problem_again(curves, plan, gpu=gpu, instead={choice.group: instead})
    problem, case = problem_again(curves, plan, gpu=gpu)
    _check_same(problem, plan)
    return problem, case


def offers_of(plan: Plan, choice: Choice) -> Offers:
    """How the candidates of one weight were listed."""
    return offers_again(plan).without(*choice.lacks)


def _alone(
    plan: Plan, curves: Curves, choice: Choice, instead: Candidates | None
) -> tuple[Problem, Case]:
    curve = curves.curves[choice.group]
    if instead is None:
        instead, _ = offers_of(plan, choice).candidates(curve, choice.wanted)
    offered = Offered({choice.group: instead})
    case = Case({choice.group: curve}, offered, {})
    return make_problem(case.curves, offered, plan.budget.limit_params), case


def labels_taken(plan: Plan) -> dict[str, Label]:
    """Module -> label of the candidate that the plan takes."""
    return {choice.group: choice.decision.label for choice in plan.choices}


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


def _check_same(problem: Problem, plan: Plan) -> None:
    """Raise PlanMismatch where limits or rules are not those that the plan keeps."""
    picks = _picks(problem, labels_taken(plan))
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
