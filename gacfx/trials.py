"""What a study tries before it decides: value models and menus, judged on held-back text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

from gacfx.compressors.methods import METHODS
from gacfx.compressors.values import TRIED, VALUES
from gacfx.core.goal import Goal
from gacfx.core.search import MENUS, Prune, Search
from gacfx.hardware.profile import Profile

SAME_NATS = 5e-4
"""Difference of two menus of pruning on held-back text that says nothing: the plainer one is taken.
On babyllama-tok105-1M at 0.1 the three lie within 1e-4 there, and 4e-4 apart on other text."""


@dataclass(frozen=True)
class Case:
    """What a plan is asked for."""

    goal: Goal
    profile: Profile
    search: Search
    structures: bool
    """Pruning is among what is tried."""

    def pruning(self, prune: Prune) -> "Case":
        """The same with one menu."""
        return replace(self, search=replace(self.search, prune=prune))


def tries_of(search: Search, method: str) -> tuple[tuple[str, Prune], ...]:
    """(value model, menu of pruning) of every plan that is to be compared, plainer menus first.

    Ranks alone come last: they are taken where pruning loses to them.

    Args:
        search: what is asked for.
        method: whose factors are taken; one that makes no ranks prunes only.
    """
    values: tuple[str, ...] = TRIED if search.value == "auto" else (search.value,)
    if search.corrections:
        values = tuple(value for value in values if VALUES.find(value).in_nats)
    if search.prune == "none":
        return tuple((value, "none") for value in values)
    if search.value == "auto":
        values = values[:1]  # losses by one number for G were never the better ones here
    menus: tuple[Prune, ...] = (search.prune,)
    if search.prune == "auto":
        menus = (*MENUS, "none") if METHODS.find(method).makes_ranks else ("only",)
    return tuple((value, menu) for menu in menus for value in values)


def best_of(losses: Sequence[float], search: Search) -> int:
    """Place of the trial to take: the least loss, or the first that is as good as that.

    Args:
        losses: of the trials, plainer menus first; what is not finite loses to everything.
        search: what is asked for.
    """
    known = [loss if isfinite(loss) else inf for loss in losses]
    least = min(known) + (SAME_NATS if search.prune == "auto" else 0.0)
    return next(at for at, loss in enumerate(known) if loss <= least)
