"""The most that groups can be worth together while they keep their rules, in whole numbers.

Groups that must take one label form a *class*, which has one worth for each label. Classes that
implications tie together form a *component*. The best labels of a component are found by branching:
take the best of every class; where that breaks an implication, one of two things must be given up.
The promising branch is looked at first, so the first one that breaks nothing is the best.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from gacfx.knapsack.limits import Implies, Label
from gacfx.knapsack.problem import Problem

_MOST_BRANCHES = 2000
"""Then the best that may still be open is reported: a weaker bound, and a true one."""

Worth = dict[Label, int]


@dataclass(frozen=True)
class Link:
    """If class ``given`` takes one of ``labels``, class ``then`` takes one of ``then_labels``."""

    given: int
    labels: frozenset[Label]
    then: int
    then_labels: frozenset[Label]

    def breaks(self, picks: Mapping[int, Label]) -> bool:
        return picks[self.given] in self.labels and picks[self.then] not in self.then_labels

    def denied(self, worth: Mapping[int, Worth]) -> tuple[int, Worth]:
        """(class, what it may still take) so that the rule does not apply."""
        known = worth[self.given]
        return self.given, {label: known[label] for label in known if label not in self.labels}

    def obeyed(self, worth: Mapping[int, Worth]) -> tuple[int, Worth]:
        """(class, what it may still take) so that the conclusion holds."""
        known = worth[self.then]
        return self.then, {label: known[label] for label in known if label in self.then_labels}


def classes(problem: Problem) -> list[list[int]]:
    """Indices of groups that must take one label, directly or through others; most are alone."""
    number = {group.name: index for index, group in enumerate(problem.groups)}
    tied = [
        [number[name] for name in rule.groups]
        for rule in problem.rules
        if not isinstance(rule, Implies)
    ]
    return _joined(len(problem.groups), tied)


def links(problem: Problem, found: Sequence[Sequence[int]]) -> list[Link]:
    """The implications of a problem, between its classes."""
    home = {
        problem.groups[index].name: place
        for place, members in enumerate(found)
        for index in members
    }
    return [
        Link(
            home[rule.group],
            frozenset(rule.labels),
            home[rule.then_group],
            frozenset(rule.then_labels),
        )
        for rule in problem.rules
        if isinstance(rule, Implies)
    ]


def together(worth: Sequence[Worth]) -> Worth:
    """Label -> what the groups of one class are worth together, of the labels that all have."""
    first, *others = worth
    common = [label for label in first if all(label in other for other in others)]
    return {label: sum(found[label] for found in worth) for label in common}


def best_total(worth: Sequence[Worth], rules: Sequence[Link]) -> int | None:
    """The largest sum of one worth per class that breaks no rule, or a little more.

    None: no labels keep the rules.
    """
    if not all(worth):
        return None
    components = _joined(len(worth), [[rule.given, rule.then] for rule in rules])
    home = {number: index for index, members in enumerate(components) for number in members}
    own: list[list[Link]] = [[] for _ in components]
    for rule in rules:
        own[home[rule.given]].append(rule)
    total = 0
    for members, found in zip(components, own, strict=True):
        best = _branch({number: worth[number] for number in members}, found)
        if best is None:
            return None
        total += best
    return total


def _branch(worth: dict[int, Worth], rules: Sequence[Link]) -> int | None:
    """``best_total`` of one component, class -> worth."""
    picks = {number: _best(known) for number, known in worth.items()}
    order = count()
    bound = sum(known[picks[number]] for number, known in worth.items())
    open_ = [(-bound, next(order), worth, picks)]
    while open_:
        negative, _, worth, picks = heapq.heappop(open_)
        broken = next((rule for rule in rules if rule.breaks(picks)), None)
        if broken is None or next(order) > _MOST_BRANCHES:
            return -negative
        for number, left in (broken.denied(worth), broken.obeyed(worth)):
            if left:
                pick = _best(left)
                lost = worth[number][picks[number]] - left[pick]
                tried = (worth | {number: left}, picks | {number: pick})
                heapq.heappush(open_, (negative + lost, next(order), *tried))
    return None


def _best(worth: Worth) -> Label:
    return max(worth, key=worth.__getitem__)


def _joined(size: int, ties: Sequence[Sequence[int]]) -> list[list[int]]:
    """0 .. size - 1 in sets, where whatever stands in one tie is in one set; in order."""
    home = list(range(size))
    members = {number: [number] for number in range(size)}
    for tie in ties:
        first, *others = sorted({home[number] for number in tie})
        for other in others:
            for number in members[other]:
                home[number] = first
            members[first] += members.pop(other)
    return [sorted(found) for found in members.values()]
