"""Why a weight or structure got its size: the plan's prices put on its candidates.

print(explain(plan, load_curves("curves.safetensors"), "model.layers.0.mlp.up_proj").held_by)

The plan carries prices, its multipliers: what one more parameter, or one more unit of a limit,
would save in nats. A size is worth ``-loss`` less all that it needs at its price. What a plan would
lose by another size is the difference of the two. It can be a little below 0: the prices are those
of the relaxation, and a plan fills its budget with whole ranks.
"""

from dataclasses import dataclass, replace

from gacfx.allocation.allocate import Case
from gacfx.allocation.joint import Joint
from gacfx.allocation.offers import Offers
from gacfx.core.curve_file import Curves
from gacfx.core.decision import DENSE
from gacfx.core.offered import Candidates
from gacfx.core.plan import Choice, Plan
from gacfx.core.pruning import Each, Heads, Width
from gacfx.explain.again import (
    check_locks,
    check_loss,
    choice_of,
    labels_taken,
    offers_of,
    prices_of,
    problem_around,
    whole_case,
)
from gacfx.explain.bundle import Bundle, meaning_of
from gacfx.explain.holds import Held
from gacfx.explain.values import Explanation, Hold, Moved, Other, Price, Tie
from gacfx.hardware.profile import Profile

__all__ = ["Explanation", "Hold", "Moved", "Other", "Price", "Tie", "explain"]

NEIGHBOURS = 3
"""Sizes that are listed on either side."""


def explain(
    plan: Plan, curves: Curves, module: str, *, gpu: str | Profile | None = None
) -> Explanation:
    """Why ``module`` has its size in ``plan``; of a weight of a structure, why that has its size.

    Args:
        plan: a plan with a proof.
        curves: those that it was made of.
        module: full name of a planned module, or of a structure.
        gpu: profile that the plan's limits were forecast with; the one that the plan names if None.

    Raises:
        PlanError: no such module, a plan without prices, or a limit whose pass is not known here.
        PlanMismatch: the curves are not those of the plan, or its limits come out differently.
        ProfileError: the profile of the limits is not known here.
    """
    choice, prices = choice_of(plan, curves, module), prices_of(plan)
    check_locks(plan, curves, choice)
    problem, case = problem_around(plan, curves, choice, gpu=gpu)
    curve, name = case.curves[choice.group], choice.group
    check_loss(plan, curves, choice, curve)
    multipliers = tuple(price.nats_per_unit or 0.0 for price in prices)
    taken, offers = labels_taken(plan, case.offered), offers_of(plan, choice)
    bundle = Bundle.make(problem, name, taken, multipliers, meaning_of(case.offered))
    sizes = _sizes(plan, curves, choice, offers)
    free, every = problem, case
    if not bundle.ties and sizes.every is not None:
        free, every = problem_around(plan, curves, choice, gpu=gpu, instead=sizes.every)
    loose = replace(free, rules=())
    alone = Bundle.make(loose, name, taken, multipliers, meaning_of(every.offered))
    assert case.offered.candidates is not None
    held = Held(
        choice=choice,
        failed=bool(curve.failed),
        legal=sizes.legal,
        inside=sizes.inside,
        outside=sizes.outside,
        offers=offers,
        bounds=offers.bounds_on(name),
        prices=prices,
        bundle=bundle,
        alone=alone,
        offered=case.offered.candidates[name],
    )
    below, above = _neighbours(choice, bundle)
    nearest, pays_at = _nearest(bundle) if choice.decision.is_dense else (None, None)
    return Explanation(
        module=name,
        weights=choice.weights,
        decision=choice.decision,
        loss_nats=choice.loss_nats,
        params=choice.params,
        price=multipliers[0] * 1e6,
        prices=prices,
        tied=bundle.ties,
        below=below,
        above=above,
        nearest=nearest,
        pays_at=pays_at,
        held_by=tuple(held.holds()),
        notes=(*_decided_with(module, choice), *_left_out(prices)),
    )


@dataclass(frozen=True)
class _Sizes:
    """Sizes that a weight or structure could have."""

    legal: Candidates
    """But for window and bounds."""
    inside: Candidates
    """But for the window."""
    every: Candidates | None
    """Whatever the contract; None where that is not asked."""
    outside: float = 0.0
    """What the best size of a structure that bounds leave out would win, at the plan's prices."""


def _sizes(plan: Plan, curves: Curves, choice: Choice, offers: Offers) -> _Sizes:
    if len(choice.weights) > 1:
        free, bound = (
            whole_case(plan, curves, choice, each) for each in (replace(offers, bounds=()), offers)
        )
        legal, inside = ((case.offered.candidates or {})[choice.group] for case in (free, bound))
        # Under limits the prices of sizes that were not offered are not known.
        outside = 0.0 if plan.limits else _best(plan, choice, free) - _best(plan, choice, bound)
        return _Sizes(legal, inside, None, max(outside, 0.0))
    if offers.prune == "only":
        return _Sizes((DENSE,), (DENSE,), None)
    curve = curves.curves[choice.group]
    every = Offers(align=1, kinds=offers.kinds)
    bounds = offers.bounds_on(choice.group)
    legal, inside = (
        replace(offers, window=0, bounds=each).candidates(curve)[0] for each in ((), bounds)
    )
    return _Sizes(legal, inside, every.candidates(curve)[0])


def _best(plan: Plan, choice: Choice, case: Case) -> float:
    """What the best size of a structure is worth at the price of the budget."""
    joint = case.curves[choice.group]
    assert isinstance(joint, Joint) and plan.proof is not None
    return float((-joint.losses - plan.proof.multiplier * joint.params).max())


def _decided_with(module: str, choice: Choice) -> tuple[str, ...]:
    """That a weight was not decided alone."""
    if module == choice.group:
        return ()
    part = choice.decisions[module]
    return (f"{module} is decided with its structure {choice.group}, and becomes {part}",)


def _neighbours(choice: Choice, bundle: Bundle) -> tuple[tuple[Other, ...], tuple[Other, ...]]:
    """The next candidates with fewer parameters, and those with more, each from the next one on.

    A rank that is there in two forms is shown in the one that needs less.
    """
    own = {each: replace(choice, decision=each).params for each in bundle.others}
    forms = [(other.decision.rank, other.needs) for other in bundle.others.values()]
    forms.append((choice.decision.rank, (0,) * len(bundle.prices)))
    kept = [other for other in bundle.others.values() if not _is_spared(other, forms)]
    kept = _best_sizes(kept) if len(choice.weights) > 1 else kept
    order = sorted(kept, key=lambda other: own[other.decision])
    below = [other for other in reversed(order) if own[other.decision] < choice.params]
    above = [other for other in order if own[other.decision] > choice.params]
    return tuple(below[:NEIGHBOURS]), tuple(above[:NEIGHBOURS])


def _best_sizes(others: list[Other]) -> list[Other]:
    """For each size of a structure the way that the plan would lose least with."""
    best = dict[str, Other]()
    for other in sorted(others, key=lambda other: other.reduced_cost_nats):
        decision = other.decision
        size = decision.size if isinstance(decision, Width | Heads | Each) else decision.kind
        best.setdefault(size, other)
    return list(best.values())


def _is_spared(other: Other, forms: list[tuple[int | None, tuple[int, ...]]]) -> bool:
    """Another form of its rank needs less of something and more of nothing."""
    needs = [found for rank, found in forms if rank is not None and rank == other.decision.rank]
    return any(
        found != other.needs
        and all(less <= more for less, more in zip(found, other.needs, strict=True))
        for found in needs
    )


def _nearest(bundle: Bundle) -> tuple[Other | None, float | None]:
    """Of a dense weight, the rank with the least reduced cost, and the price at which one pays.

    That price is of parameters, the others as they are; where implications let several weights
    change at once there is no one price.
    """
    ranks = [each for each in bundle.others if not each.is_dense]
    nearest = bundle.best(ranks)
    if nearest is None or any(tie.how == "implication" for tie in bundle.ties):
        return nearest, None
    free = bundle.at((0.0, *bundle.prices[1:])).others
    saving = [free[rank] for rank in ranks if free[rank].params_change < 0]
    pays = [1e6 * other.reduced_cost_nats / -other.params_change for other in saving]
    return nearest, min(pays, default=None)


def _left_out(prices: tuple[Price, ...]) -> list[str]:
    return [
        f"the plan does not hold the price of its limit {price.name!r} (plan again to get it), so "
        "the figures leave it out"
        for price in prices
        if price.nats_per_unit is None
    ]
