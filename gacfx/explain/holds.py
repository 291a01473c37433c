"""What keeps a weight from another size, each with what the plan would win without it."""

from collections.abc import Iterator
from dataclasses import dataclass

from gacfx.allocation.offers import Offers
from gacfx.core.offered import Candidates
from gacfx.core.plan import Choice
from gacfx.core.search import Bound
from gacfx.explain.bundle import Bundle
from gacfx.explain.values import PARAMETERS, Hold, Other, Price


@dataclass(frozen=True, eq=False)
class Held:
    """A weight of a plan, and everything that can hold it."""

    choice: Choice
    failed: bool
    """There is no curve."""
    legal: Candidates
    """All sizes but for window and bounds."""
    inside: Candidates
    """All sizes but for the window."""
    outside: float
    """What the best size of a structure that bounds leave out would win."""
    offers: Offers
    """How its candidates were listed."""
    bounds: tuple[Bound, ...]
    prices: tuple[Price, ...]
    bundle: Bundle
    """With the weights that rules tie to it."""
    alone: Bundle
    """Of this weight only; if nothing is tied to it, with every size that it could have."""
    offered: Candidates
    """What the planner could choose from."""

    def holds(self) -> Iterator[Hold]:
        """Everything that binds, the budget first."""
        lacks = self.choice.lacks
        if self.choice.reason:
            by = "bound" if len(self.legal) > 1 else "contract"
            by = "search" if self.offers.prune == "only" else by
            yield Hold("failure" if self.failed or lacks else by, self.choice.reason, None)
        else:
            yield from (Hold("failure", f"{kind}: {why}", None) for kind, why in lacks.items())
        if self.failed:
            return
        yield from self._scarce()
        if self.bundle.ties:
            yield from self._rules()
        else:  # sizes that were never offered; tied weights would all need them
            yield from self._never_offered()
        yield from self._break_even()

    def _scarce(self) -> Iterator[Hold]:
        """Budget and limits that leave too little for every size that loses less."""
        others = self.bundle.others
        better = [others[each] for each in self.offered if each in others]
        better = [other for other in better if other.loss_change_nats < 0]
        if not better:
            return
        short = [
            (number, price, need)
            for number, price in enumerate(self.prices)
            if (need := min(other.needs[number] for other in better)) > price.left
        ]
        for number, price, need in short:
            yield Hold(_name(price), _too_little(price, need), self._free(number))
        fits = [other for other in better if not self._passes(other)]
        if fits:
            gain = -fits[0].loss_change_nats
            yield Hold("solver", f"{fits[0].decision} fits and loses less, and was not found", gain)
        elif not short:
            names = " and ".join(map(_name, self.prices))
            yield Hold(names, "every size that loses less passes one of them", None)

    def _free(self, number: int) -> float:
        """What the plan would win if one price were 0 and the others as they are."""
        prices = list(self.bundle.prices)
        prices[number] = 0.0
        return self.bundle.at(tuple(prices)).gain(self.offered)

    def _passes(self, other: Other) -> bool:
        needs = zip(other.needs, self.prices, strict=True)
        return any(need > price.left for need, price in needs)

    def _rules(self) -> Iterator[Hold]:
        """Ties, where the weight alone would take another size."""
        best = self.alone.best(self.offered)
        gain = self.alone.gain(self.offered) - self.bundle.gain(self.offered)
        if best is not None and gain > 0:
            why = f"without the weights tied to it, it would take {best.decision}"
            yield Hold("rules", why, gain)

    def _never_offered(self) -> Iterator[Hold]:
        if self.outside > 0:
            yield Hold("bound", " and ".join(map(str, self.bounds)), self.outside)
        gain, legal, inside = self.alone.gain, self.legal, self.inside
        now = gain(self.offered)
        if (win := gain(inside) - now) > 0:
            yield Hold("window", f"only {len(self.offered)} sizes were offered", win)
        if (win := gain(legal) - max(now, gain(inside))) > 0:
            yield Hold("bound", " and ".join(map(str, self.bounds)), win)
        every = tuple(self.alone.others)
        if not self.choice.reason and (win := gain(every) - max(now, gain(legal))) > 0:
            yield Hold("contract", f"ranks come in steps of {self.offers.step}", win)

    def _break_even(self) -> Iterator[Hold]:
        """The largest size of its kind below the dense weight is taken."""
        if len(self.choice.weights) > 1:
            return
        alike = [each for each in self.legal if each.kind == self.choice.decision.kind]
        if not self.choice.decision.is_dense and alike and self.choice.decision == alike[-1]:
            yield Hold("break-even", "no larger rank in this form saves parameters", None)


def _name(price: Price) -> str:
    return "budget" if price.name == PARAMETERS else f"limit {price.name}"


def _too_little(price: Price, need: int) -> str:
    unit = price.unit or ("parameters" if price.name == PARAMETERS else "units")
    return f"the next size that loses less needs {need:,} {unit}, {price.left:,} are left"
