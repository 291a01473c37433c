"""What weights are offered that may share a basis: ranks of a common one, or each its own decision.

layers.0.self_attn.q_proj+1   shared rank 8, 16, ..., 4088;  rank 8, dense;  ...;  dense, dense

Candidates that another one beats in parameters and in loss go before the planner sees them; under a
second budget only candidates of the same forms are compared, since that budget may prefer another
form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gacfx.allocation.joint import Joint, best_of, options_of, ways
from gacfx.allocation.offers import BY, Offers, unstorable, window_of
from gacfx.core.curves import Curve
from gacfx.core.decision import Decision, LowRank, break_even
from gacfx.core.plan import Weight
from gacfx.core.pruning import Each
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.shared_curves import SharedCurve
from gacfx.errors import PassError

Rows = list[tuple[int, float, Decision]]
"""(parameters, loss, decision)."""
Lacks = Mapping[str, Mapping[str, str]]
"""Module -> kind -> why the weight cannot have this kind of decision."""


def lacking(without: Lacks, unshared: Mapping[str, str]) -> Lacks:
    """What weights cannot have, with those that can share no basis.

    Args:
        without: what else they cannot have.
        unshared: module -> why it keeps a basis of its own.
    """
    found = {module: {SharedBasis.kind: why} for module, why in unshared.items()}
    for module, lacks in without.items():
        found[module] = {**found.get(module, {}), **lacks}
    return found


def shared_joint(
    curve: SharedCurve,
    whole: Sequence[Curve],
    offers: Offers,
    *,
    without: Lacks,
    wanted: float | None = None,
    limited: bool = False,
) -> Joint:
    """The candidates of a group.

    Args:
        curve: of its weights together.
        whole: curves of its weights alone, in the order of its members.
        offers: which ranks.
        without: module -> kind -> why the weight cannot have this kind of decision.
        wanted: rank that a window stands around.
        limited: there are further budgets, so that a form may be worth its parameters.

    Raises:
        PassError: nothing is within the bounds, or a window without ``wanted``.
    """
    maker = _Maker(curve, whole, offers, without)
    shared = maker.shared()
    rows = _near(curve.name, shared, maker, offers, wanted) if offers.window else shared
    if not offers.window:
        kinds = offers.kinds
        for own in [kinds, *((kind,) for kind in kinds), ()] if limited else [kinds]:
            rows += maker.alone(own)
    unique = {each.label: (params, loss, each) for params, loss, each in rows}
    rows = sorted(unique.values(), key=lambda row: (row[0], row[1]))
    if not limited:
        rows = best_of(rows)
    if not rows:
        bounds = " and ".join(map(str, maker.bounds))
        raise PassError(
            f"{BY}: {curve.name}: no candidate is left: neither a shared rank nor the dense "
            f"weights are in {bounds or 'the window'}"
        )
    return Joint(
        curve.name,
        tuple(Weight(c.module, c.rows, c.columns) for c in whole),
        tuple(each for _, _, each in rows),
        np.array([params for params, _, _ in rows], np.int64),
        np.array([loss for _, loss, _ in rows]),
        tuple(whole),
    )


@dataclass(frozen=True)
class _Maker:
    curve: SharedCurve
    whole: Sequence[Curve]
    offers: Offers
    without: Lacks

    @property
    def bounds(self) -> tuple[object, ...]:
        """Those on ranks of the group and of each of its weights."""
        names = (self.curve.name, *self.curve.facts.members)
        return tuple(dict.fromkeys(bound for n in names for bound in self.offers.bounds_on(n)))

    def shared(self) -> Rows:
        """Ranks of one basis that have fewer parameters than the dense weights."""
        offers, (rows, columns) = self.offers, self.curve.facts.shape
        forms = {LowRank.kind, SharedBasis.kind}  # a basis is one factor of a pair
        lacks = any(SharedBasis.kind in self.without.get(c.module, {}) for c in self.whole)
        barred = any(unstorable(c, offers.contract) for c in self.whole)
        if lacks or barred or forms.isdisjoint(offers.kinds):
            return []
        top = min(break_even(rows, columns), rows, columns)
        names = (self.curve.name, *self.curve.facts.members)
        bounds = [bound for name in names for bound in offers.bounds_on(name)]
        return [
            (rank * (rows + columns), float(self.curve.losses[rank]), SharedBasis(rank))
            for rank in range(offers.step, top + 1, offers.step)
            if all(bound.holds(rank) for bound in bounds)
        ]

    def alone(self, kinds: tuple[str, ...]) -> Rows:
        """Each weight has its own decision."""
        options = []
        for curve in self.whole:
            lacks = self.without.get(curve.module, {})
            options.append(options_of(curve, self.offers.only(*kinds).without(*lacks)))
        return [(params, loss, Each(parts)) for params, loss, parts in ways(0.0, options)]


def _near(name: str, shared: Rows, maker: _Maker, offers: Offers, wanted: float | None) -> Rows:
    """The window around the wanted rank; the dense weights stand above all ranks."""
    if wanted is None:
        raise PassError(f"{BY}: {name}: a window needs wanted ranks; bind them")
    dense = maker.alone(())
    rows, columns = maker.curve.facts.shape
    rising = [*shared, *([] if offers.dense else dense)]
    places = [params for params, _, _ in rising]
    near = rising[window_of(places, wanted * (rows + columns), offers.window)]
    return [*near, *(dense if offers.dense else [])]
