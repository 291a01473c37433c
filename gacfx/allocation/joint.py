"""What a coupled structure is offered: sizes of the whole, ranks of its weights, or both at once.

layers.0.mlp   width 64;  width 128: pivot 32, dense, dense;  ...;  pivot 64, dense, pivot 96;  skip

Each candidate names what becomes of every weight. Losses of pruning and of ranks add up. Those that
another one beats in parameters and in loss go before the planner sees them; under a second budget
only candidates of the same forms are compared, since that budget may prefer another form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gacfx.allocation.offers import BY, Offers, window_of
from gacfx.core.curves import Curve
from gacfx.core.decision import Decision
from gacfx.core.offered import Candidates
from gacfx.core.plan import Weight
from gacfx.core.pruning import Each, Heads, Skip, Sliced, Width
from gacfx.core.search import Bound
from gacfx.core.structure_curves import Size, StructureCurve
from gacfx.errors import PassError
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Label

MOST = 1500
"""Candidates of a structure, and ways to give ranks to its weights at one size. Beyond, the best of
each of so many equal steps of parameters is kept."""


CAUTION = 2.0
"""How often ``cautious`` counts the loss of ranks on top of a size. Measured on
babyllama-tok105-1M at 0.4: 0.050 nats with 1, 0.034 with 2, 0.036 with 3, 0.041 with sizes or ranks
alone; at 0.2 and 0.3 all lie close together."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The candidates of one structure with what they keep and cost."""

    name: str
    weights: tuple[Weight, ...]
    candidates: Candidates
    params: IntArray
    losses: FloatArray
    whole: tuple[Curve, ...]
    """Curves of its weights as they are."""
    failed: str = ""
    """As a curve has it; a structure that cannot be pruned makes no such value."""
    sizeless: str = ""
    """Why no size is offered between the whole and nothing; empty if one is."""

    @cached_property
    def _places(self) -> dict[Label, int]:
        return {each.label: at for at, each in enumerate(self.candidates)}

    def has(self, decision: Decision) -> bool:
        """Is it one of the candidates?"""
        return decision.label in self._places

    def loss(self, decision: Decision) -> float:
        """Rise under one of the candidates."""
        return float(self.losses[self._places[decision.label]])

    def at(self, candidates: Candidates) -> NDArray[np.int64]:
        """Places of some of the candidates."""
        return np.array([self._places[each.label] for each in candidates], np.int64)


@dataclass(frozen=True, eq=False)
class Front:
    """Ways to choose for several weights at once, parameters rising and losses falling."""

    params: IntArray
    losses: FloatArray
    picks: NDArray[np.int32]
    """[ways, weights] which option of each weight."""

    @staticmethod
    def start(loss: float) -> "Front":
        """One way to choose for no weight."""
        none = np.zeros((1, 0), np.int32)
        return Front(np.zeros(1, np.int64), np.array([loss]), none)

    def with_options(self, params: IntArray, losses: FloatArray) -> "Front":
        """Every way with every option of one more weight; those that others beat go."""
        total = (self.params[:, None] + params[None]).ravel()
        loss = (self.losses[:, None] + losses[None]).ravel()
        kept = unbeaten(total, loss)
        way, option = np.divmod(kept, len(params))
        picks = np.concatenate([self.picks[way], option[:, None].astype(np.int32)], 1)
        return Front(total[kept], loss[kept], picks)


@dataclass(frozen=True, slots=True)
class Options:
    """What one weight may become at one size of its structure."""

    decisions: tuple[Decision, ...]
    params: IntArray
    losses: FloatArray


def joint(
    curve: StructureCurve,
    whole: Sequence[Curve],
    offers: Offers,
    *,
    without: Mapping[str, Mapping[str, str]],
    wanted: float | None = None,
    limited: bool = False,
) -> Joint:
    """The candidates of a structure.

    Args:
        curve: of the structure.
        whole: curves of its weights as they are, in the order of its members.
        offers: which sizes and ranks; its ``prune`` says what may be joined.
        without: module -> kind -> why the weight cannot have this kind of decision.
        wanted: units that a window stands around; None where the method leaves the structure alone.
        limited: there are further budgets, so that a form may be worth its parameters.

    Raises:
        PassError: nothing is within the bounds.
    """
    maker = _Maker(curve, whole, offers, without, wanted, limited)
    return maker.make()


@dataclass(frozen=True)
class _Maker:
    curve: StructureCurve
    whole: Sequence[Curve]
    offers: Offers
    without: Mapping[str, Mapping[str, str]]
    wanted: float | None
    limited: bool

    def make(self) -> Joint:
        menu = self.offers.prune
        found: list[tuple[int, float, Decision]] = []
        for kinds in self._forms():
            here = list[tuple[int, float, Decision]]()
            for size in self._offered():
                ranked = menu in ("both", "cautious") and size in self.curve.ranks
                whole = size == self._whole
                here += self._each(kinds) if whole else self._at(size, kinds if ranked else ())
            found += best_of(here)
        skip_nats = self.curve.facts.skip_nats
        if skip_nats is not None and not self.offers.window and self._may_go:
            found.append((0, skip_nats, Skip()))
        unique = {each.label: (params, loss, each) for params, loss, each in found}
        rows = sorted(unique.values(), key=lambda row: (row[0], row[1]))
        if not self.limited:
            rows = best_of(rows)
        if not rows:
            of_weights = (b for c in self.whole for b in self.offers.bounds_on(c.module))
            bounds = dict.fromkeys((*self._bounds, *of_weights))
            raise PassError(
                f"{BY}: {self.curve.name}: no candidate is left: neither a size nor the whole is "
                f"in {' and '.join(map(str, bounds))}"
            )
        weights = tuple(Weight(c.module, c.rows, c.columns) for c in self.whole)
        return Joint(
            self.curve.name,
            weights,
            tuple(each for _, _, each in rows),
            np.array([params for params, _, _ in rows], np.int64),
            np.array([loss for _, loss, _ in rows]),
            tuple(self.whole),
            sizeless=self._sizeless(),
        )

    def _sizeless(self) -> str:
        if self._sizes():
            return ""
        facts, bounds = self.curve.facts, self._bounds
        what = "channels" if facts.kind == "width" else "key-value heads"
        within = f" in {' and '.join(map(str, bounds))}" if bounds else ""
        return f"no size of its {facts.units} {what} in steps of {self.offers.step}{within}"

    def _forms(self) -> list[tuple[str, ...]]:
        """Kinds that may be mixed in one candidate."""
        kinds = () if self.offers.prune == "only" else self.offers.kinds
        return [kinds, *((kind,) for kind in kinds), ()] if self.limited else [kinds]

    @property
    def _bounds(self) -> tuple[Bound, ...]:
        """Those on the number of units."""
        return self.offers.bounds_on(self.curve.name)

    def _allows(self, units: int) -> bool:
        """A number of units is within the bounds on the structure."""
        return all(bound.holds(units) for bound in self._bounds)

    @property
    def _may_go(self) -> bool:
        """No bound speaks of the structure or of one of its weights, which then has no rank."""
        return not self._bounds and not any(self.offers.bounds_on(c.module) for c in self.whole)

    @property
    def _whole(self) -> Size:
        return self.curve.facts.units, self.curve.facts.heads

    def _offered(self) -> list[Size]:
        """The whole and sizes that leave aligned dims, or those of them that a window keeps."""
        sizes, window = self._sizes(), self.offers.window
        # Below a lower bound the whole is as near to it as can be: `*=64:` may mean ranks.
        most = (self._whole[0] if b.most is None else b.most for b in self._bounds)
        whole = [self._whole] if min(most, default=self._whole[0]) >= self._whole[0] else []
        if not window:
            return [*whole, *sizes]
        if self.wanted is None:
            return whole
        sizes = [*(size for size in sizes if size[1] == self._whole[1]), *whole]
        return sizes[window_of([units for units, _ in sizes], self.wanted, window)]

    def _sizes(self) -> list[Size]:
        """Sizes that leave aligned dims, smaller than the whole."""
        facts, step = self.curve.facts, self.offers.step
        sizes = [(n, h) for h in facts.counts for n in range(1, facts.units + 1)]
        return [
            size
            for size in sizes
            if size != self._whole and self._allows(size[0]) and self._aligned(size, step)
        ]

    def _aligned(self, size: Size, step: int) -> bool:
        """Every dim that changes is a multiple of the step, or all that the block is made of."""
        if self.curve.facts.kind == "heads" and size[0] % self.offers.tp:
            return False
        for member in self.curve.facts.members:
            for left, of in zip(member.at(size), member.at(self._whole), strict=True):
                if left != of and left % step:
                    return False
        return True

    def _each(self, kinds: tuple[str, ...]) -> list[tuple[int, float, Decision]]:
        """Nothing is pruned, and each weight may have a rank."""
        options = [self._options(curve, kinds) for curve in self.whole]
        return [(params, loss, Each(parts)) for params, loss, parts in ways(0.0, options)]

    def _at(self, size: Size, kinds: tuple[str, ...]) -> list[tuple[int, float, Decision]]:
        """One size, and ranks of what is left of each weight."""
        shapes = [member.at(size) for member in self.curve.facts.members]
        ranks = self.curve.ranks.get(size, (np.zeros(0),) * len(shapes))
        options = []
        for curve, shape, losses in zip(self.whole, shapes, ranks, strict=True):
            model = curve.value_model
            left = Curve(curve.module, *shape, losses, model, "" if len(losses) else "dense")
            weight = CAUTION if self.offers.prune == "cautious" else 1.0
            options.append(self._options(left, kinds, weight))
        units, heads = self.curve.kept(size)
        found: list[tuple[int, float, Decision]] = []
        for params, loss, parts in ways(self.curve.loss(size), options):
            own = tuple(Sliced(*shape, part) for shape, part in zip(shapes, parts, strict=True))
            whole = [(c.rows, c.columns) for c in self.whole]
            made = tuple(
                part.rest if (part.outputs, part.inputs) == shape else part
                for part, shape in zip(own, whole, strict=True)
            )
            if self.curve.facts.kind == "width":
                found.append((params, loss, Width(made, units)))
            else:
                found.append((params, loss, Heads(made, units, heads)))
        return found

    def _options(self, curve: Curve, kinds: tuple[str, ...], weight: float = 1.0) -> Options:
        lacks = self.without.get(curve.module, {})
        return options_of(curve, self.offers.only(*kinds).without(*lacks), weight)


def options_of(curve: Curve, offers: Offers, weight: float = 1.0) -> Options:
    """What one weight of a group may become by itself, whatever the window.

    Args:
        curve: of the weight.
        offers: of the kinds that it can have.
        weight: how often its losses count.
    """
    decisions = offers.allowed(curve)
    params = [each.params(curve.rows, curve.columns) for each in decisions]
    losses = [0.0 if curve.failed else weight * curve.loss(each) for each in decisions]
    return Options(decisions, np.array(params, np.int64), np.array(losses))


def ways(loss: float, options: Sequence[Options]) -> list[tuple[int, float, tuple[Decision, ...]]]:
    """Ways to choose an option for each weight that no other beats: (parameters, loss, parts); none
    where a weight has no option."""
    if not all(each.decisions for each in options):
        return []
    front = Front.start(loss)
    for each in options:
        front = front.with_options(each.params, each.losses)
    rows = zip(front.params.tolist(), front.losses.tolist(), front.picks.tolist(), strict=True)
    return [
        (params, total, tuple(o.decisions[p] for o, p in zip(options, picks, strict=True)))
        for params, total, picks in rows
    ]


def best_of(rows: list[tuple[int, float, Decision]]) -> list[tuple[int, float, Decision]]:
    """Those that no other beats, parameters rising."""
    if not rows:
        return rows
    params = np.array([params for params, _, _ in rows], np.int64)
    losses = np.array([loss for _, loss, _ in rows])
    return [rows[at] for at in unbeaten(params, losses).tolist()]


def unbeaten(params: IntArray, losses: FloatArray, most: int = MOST) -> NDArray[np.int64]:
    """Places of those with a smaller loss than all that keep as few parameters, these rising.

    Of more than ``most`` the best of each of ``most`` equal steps of parameters, and both ends.
    """
    order = np.lexsort((losses, params))
    lowest = np.minimum.accumulate(losses[order])
    better = np.ones(len(order), bool)
    better[1:] = losses[order][1:] < lowest[:-1]
    kept: NDArray[np.int64] = order[better]
    if len(kept) <= most:
        return kept
    at = params[kept]
    step = (at - at[0]) * most // max(int(at[-1] - at[0]), 1)
    last = np.flatnonzero(np.append(step[1:] != step[:-1], True))
    return np.asarray(kept[np.union1d(last, [0])])
