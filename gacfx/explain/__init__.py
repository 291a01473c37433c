"""Why a weight got its size: the plan's prices put on the candidates of one weight.

print(explain(plan, load_curves("curves.safetensors"), "model.layers.0.mlp.up_proj").held_by)

The plan carries prices, its multipliers: what one more parameter, or one more unit of a limit,
would save in nats. A size is worth ``-loss`` less all that it needs at its price. What a plan would
lose by another size is the difference of the two. It can be a little below 0: the prices are those
of the relaxation, and a plan fills its budget with whole ranks.
"""

from dataclasses import replace

from gacfx.allocation.offers import Offers
from gacfx.core.curve_file import Curves
from gacfx.core.curves import Curve
from gacfx.core.offered import Candidates
from gacfx.core.plan import Choice, Plan
from gacfx.explain.again import (
    choice_of,
    curve_of,
    labels_taken,
    offers_of,
    prices_of,
    problem_around,
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
    """Why ``module`` has its size in ``plan``.

    Args:
        plan: a plan with a proof.
        curves: those that it was made of.
        module: full name of a planned module.
        gpu: profile that the plan's limits were forecast with; the one that the plan names if None.

    Raises:
        PlanError: no such module, a plan without prices, or a limit whose pass is not known here.
        PlanMismatch: the curves are not those of the plan, or its limits come out differently.
        ProfileError: the profile of the limits is not known here.
    """
    choice, prices = choice_of(plan, module), prices_of(plan)
    curve = curve_of(plan, curves, choice)
    problem, case = problem_around(plan, curves, choice, gpu=gpu)
    multipliers = tuple(price.nats_per_unit or 0.0 for price in prices)
    taken, offers = labels_taken(plan), offers_of(plan, choice)
    bundle = Bundle.make(problem, module, taken, multipliers, meaning_of(case.offered))
    free, every = problem, case
    if not bundle.ties:
        sizes = _every(curve, offers)
        free, every = problem_around(plan, curves, choice, gpu=gpu, instead=sizes)
    loose = replace(free, rules=())
    alone = Bundle.make(loose, module, taken, multipliers, meaning_of(every.offered))
    assert case.offered.candidates is not None
    held = Held(
        choice=choice,
        curve=curve,
        offers=offers,
        bounds=offers.bounds_on(module),
        prices=prices,
        bundle=bundle,
        alone=alone,
        offered=case.offered.candidates[module],
    )
    below, above = _neighbours(choice, bundle)
    nearest, pays_at = _nearest(bundle) if choice.decision.is_dense else (None, None)
    return Explanation(
        module=module,
        rows=curve.rows,
        columns=curve.columns,
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
        notes=tuple(_left_out(prices)),
    )


def _every(curve: Curve, offers: Offers) -> Candidates:
    """All sizes that save parameters, and the dense weight."""
    every = Offers(align=1, kinds=offers.kinds)
    return every.candidates(curve)[0]


def _neighbours(choice: Choice, bundle: Bundle) -> tuple[tuple[Other, ...], tuple[Other, ...]]:
    """The next candidates with fewer parameters, and those with more, each from the next one on.

    A rank that is there in two forms is shown in the one that needs less.
    """
    own = {each: replace(choice, decision=each).params for each in bundle.others}
    forms = [(other.decision.rank, other.needs) for other in bundle.others.values()]
    forms.append((choice.decision.rank, (0,) * len(bundle.prices)))
    kept = [other for other in bundle.others.values() if not _is_spared(other, forms)]
    order = sorted(kept, key=lambda other: own[other.decision])
    below = [other for other in reversed(order) if own[other.decision] < choice.params]
    above = [other for other in order if own[other.decision] > choice.params]
    return tuple(below[:NEIGHBOURS]), tuple(above[:NEIGHBOURS])


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
