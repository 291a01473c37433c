"""A weight and all that rules tie to it, at the prices of a plan.

Weights that must take one size are one class; classes that implications tie together are compared
together: for every size of the weight the others take what is best for them beside it.
"""

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from gacfx.core.decision import Decision
from gacfx.core.offered import Offered
from gacfx.explain.values import Moved, Other, Tie
from gacfx.knapsack.limits import Implies, Label, Limit, Rule
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules.merge import Merged, labels_of, merge

Mask = NDArray[np.bool_]
Meaning = Mapping[str, Mapping[Label, Decision]]


@dataclass(frozen=True, eq=False)
class Link:
    """An implication between two classes: what it means, and what may follow."""

    given: int
    meant: Mask
    then: int
    may: Mask


@dataclass(frozen=True, eq=False)
class Bundle:
    """Candidates of one weight, with those of the weights tied to it."""

    module: str
    merged: Merged
    """The weights alone, those of one size made one class."""
    chosen: tuple[int, ...]
    """[classes] the plan's candidate."""
    prices: tuple[float, ...]
    """Nats for each parameter, then for each unit of each limit."""
    meaning: Meaning
    """Group -> label -> the decision that it stands for."""

    @staticmethod
    def make(
        problem: Problem,
        module: str,
        plan: Mapping[str, Label],
        prices: tuple[float, ...],
        meaning: Meaning,
    ) -> "Bundle":
        """The bundle of ``module`` in a problem.

        Args:
            problem: with all limits and rules.
            module: a group of it.
            plan: group -> label that the plan takes.
            prices: multipliers of budget and limits.
            meaning: group -> label -> the decision that it stands for.
        """
        names = _tied(module, problem.rules)
        groups = tuple(group for group in problem.groups if group.name in names)
        costs = [
            {name: found for name, found in limit.costs.items() if name in names}
            for limit in problem.limits
        ]
        limits = tuple(
            Limit(limit.name, limit.most, own)
            for limit, own in zip(problem.limits, costs, strict=True)
        )
        rules = tuple(rule for rule in problem.rules if names.issuperset(_names(rule)))
        merged = merge(Problem(groups, problem.budget, limits, rules))
        chosen = tuple(group.index(plan[group.name]) for group in merged.problem.groups)
        return Bundle(module, merged, chosen, prices, meaning)

    def at(self, prices: tuple[float, ...]) -> "Bundle":
        """The same weights at other prices."""
        return replace(self, prices=prices)

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The other weights, by how they are tied."""
        groups = self.merged.original.groups
        same = tuple(groups[i].name for i in self.merged.members[self.home])
        linked = tuple(group.name for group in groups if group.name not in same)
        same = tuple(name for name in same if name != self.module)
        found = (Tie("same size", same), Tie("implication", linked))
        return tuple(tie for tie in found if tie.modules)

    @cached_property
    def home(self) -> int:
        """The class of the weight."""
        number = [group.name for group in self.merged.original.groups].index(self.module)
        return next(i for i, found in enumerate(self.merged.members) if number in found)

    @cached_property
    def others(self) -> dict[Decision, Other]:
        """Decision -> what it changes, for all but the chosen one that the rules allow."""
        labels = labels_of(self.merged.problem.groups[self.home])
        found = dict[Decision, Other]()
        for index, label in enumerate(labels):
            picks = None if index == self.chosen[self.home] else self._respond(index)
            if picks is not None:
                decision = self.meaning[self.module][label]
                found[decision] = self._other(decision, picks)
        return found

    def best(self, sizes: Collection[Decision]) -> Other | None:
        """The one of these sizes that the plan would lose least with."""
        wanted = set(sizes)
        offered = [other for size, other in self.others.items() if size in wanted]
        return min(offered, key=lambda other: other.reduced_cost_nats, default=None)

    def gain(self, sizes: Collection[Decision]) -> float:
        """What the best of these sizes wins over the chosen one; 0 if none does."""
        best = self.best(sizes)
        return 0.0 if best is None else max(0.0, -best.reduced_cost_nats)

    @cached_property
    def _needs(self) -> list[NDArray[np.int64]]:
        """[classes] [prices, candidates] parameters, then units of every limit."""
        problem = self.merged.problem
        return [
            np.array([group.costs, *(_costs(limit, group) for limit in problem.limits)])
            for group in problem.groups
        ]

    @cached_property
    def _worth(self) -> list[NDArray[np.float64]]:
        """[classes] [candidates] value less all that it needs at its price."""
        groups = self.merged.problem.groups
        return [
            group.values - np.array(self.prices) @ needs
            for group, needs in zip(groups, self._needs, strict=True)
        ]

    @cached_property
    def _links(self) -> list[Link]:
        groups = {group.name: i for i, group in enumerate(self.merged.problem.groups)}

        def among(name: str, labels: Collection[Label]) -> Mask:
            known = labels_of(self.merged.problem.groups[groups[name]])
            return np.array([label in labels for label in known])

        return [
            Link(
                groups[rule.group],
                among(rule.group, rule.labels),
                groups[rule.then_group],
                among(rule.then_group, rule.then_labels),
            )
            for rule in self.merged.problem.rules
            if isinstance(rule, Implies)
        ]

    def _respond(self, index: int) -> tuple[int, ...] | None:
        """[classes] the best candidates beside this one of the weight; None: rules forbid it.

        Take the best of every class; where that breaks an implication, one of two things must be
        given up. The more promising branch is looked at first, so the first that breaks nothing is
        the best.
        """
        allowed = [np.ones(len(worth), np.bool_) for worth in self._worth]
        allowed[self.home] = np.arange(len(self._worth[self.home])) == index
        order = count()  # of equal branches the older one
        open_ = [(-self._total(allowed), next(order), allowed)]
        while open_:
            _, _, allowed = heapq.heappop(open_)
            picks = self._picks(allowed)
            broken = next(
                (x for x in self._links if x.meant[picks[x.given]] and not x.may[picks[x.then]]),
                None,
            )
            if broken is None:
                return picks
            for place, mask in ((broken.given, ~broken.meant), (broken.then, broken.may)):
                left = [*allowed[:place], allowed[place] & mask, *allowed[place + 1 :]]
                if left[place].any():
                    heapq.heappush(open_, (-self._total(left), next(order), left))
        return None

    def _picks(self, allowed: list[Mask]) -> tuple[int, ...]:
        return tuple(
            int(np.argmax(np.where(mask, worth, -np.inf)))
            for mask, worth in zip(allowed, self._worth, strict=True)
        )

    def _total(self, allowed: list[Mask]) -> float:
        return sum(
            float(worth[mask].max()) for mask, worth in zip(allowed, self._worth, strict=True)
        )

    def _other(self, decision: Decision, picks: tuple[int, ...]) -> Other:
        groups = self.merged.problem.groups
        steps = list(zip(groups, self._needs, self.chosen, picks, strict=True))
        loss = sum(float(g.values[old] - g.values[new]) for g, _, old, new in steps)
        needs = [int(n) for n in sum(n[:, new] - n[:, old] for _, n, old, new in steps)]  # type: ignore[union-attr]
        paid = sum(price * need for price, need in zip(self.prices, needs, strict=True))
        return Other(decision, loss, needs[0], loss + paid, tuple(needs[1:]), self._moved(picks))

    def _moved(self, picks: tuple[int, ...]) -> tuple[Moved, ...]:
        """Classes that change by implication; the weight's own class changes as one anyway."""
        return tuple(
            self._taken(self.merged.original.groups[member].name, labels_of(group)[new])
            for i, (group, old, new) in enumerate(
                zip(self.merged.problem.groups, self.chosen, picks, strict=True)
            )
            for member in self.merged.members[i]
            if i != self.home and new != old
        )

    def _taken(self, group: str, label: Label) -> Moved:
        return Moved(group, self.meaning[group][label])


def meaning_of(offered: Offered) -> Meaning:
    """Group -> label -> decision: a width of one structure has other channels in another."""
    known = offered.candidates or {}
    return {group: {each.label: each for each in found} for group, found in known.items()}


def _costs(limit: Limit, group: Group) -> NDArray[np.int64]:
    return limit.costs.get(group.name, np.zeros(len(group.costs), np.int64))


def _names(rule: Rule) -> tuple[str, ...]:
    return (rule.group, rule.then_group) if isinstance(rule, Implies) else rule.groups


def _tied(module: str, rules: tuple[Rule, ...]) -> set[str]:
    """The weights that rules tie to ``module``, directly or through others, and itself."""
    found, size = {module}, 0
    while len(found) > size:
        size = len(found)
        for rule in rules:
            if not found.isdisjoint(names := _names(rule)):
                found.update(names)
    return found
