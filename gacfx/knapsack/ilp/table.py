"""A problem for integer programs: its normal form in quanta, and the rules as links.

That keeps the numbers of the program small and whole.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.limits import Implies, Label
from gacfx.knapsack.normal_form import NormalForm, normal_form
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules.reduction import labels_of

Link = tuple[IntArray, IntArray]
"""Positions (if, then): a plan that holds one of the first holds one of the second"""


@dataclass(frozen=True)
class Table:
    """Candidates of all groups, one group after the other; a *position* is an index into them."""

    start: IntArray
    """[groups + 1] group i owns the positions ``start[i]:start[i + 1]``; it may own none"""
    index: NDArray[np.int32]
    """[positions] index of the candidate in its group"""
    value: FloatArray
    """[positions]"""
    cost: IntArray
    """[resources, positions] quanta above the cheapest of the group; resource 0 is the budget"""
    room: IntArray
    """[resources] quanta left above the cheapest plan"""
    quantum: IntArray
    """[resources] units of cost in one quantum"""
    usable_budget: int
    links: tuple[Link, ...]

    @property
    def groups(self) -> int:
        return len(self.start) - 1

    @property
    def owner(self) -> IntArray:
        """[positions] the group of each position."""
        owner: IntArray = np.repeat(np.arange(self.groups), np.diff(self.start))
        return owner

    @property
    def empty(self) -> bool:
        """A group has no candidate left, so there is no plan."""
        return bool((np.diff(self.start) == 0).any())

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [positions]: every candidate gets the number of its group."""
        return np.repeat(per_group, np.diff(self.start))

    def over(self, position: IntArray) -> IntArray:
        """[resources] how many quanta a plan is over each resource; 0 or less: it fits."""
        spent: IntArray = self.cost[:, position].sum(axis=1)
        return spent - self.room

    def broken(self, position: IntArray) -> int:
        """How many links a plan breaks."""
        held = np.zeros(len(self.value), np.bool_)
        held[position] = True
        return sum(bool(held[given].any() and not held[then].any()) for given, then in self.links)


def tabulate(problem: Problem) -> Table:
    """The table of a problem with at least one group and no ``SameLabel`` rule.

    Raises:
        InfeasibleBudget: the budget or a limit is too small, whatever the others are.
    """
    form = normal_form(problem)
    rules = _implications(problem, form)
    keep = np.ones(len(form.value), np.bool_)
    for given, then, alone in rules:
        if alone or not then.any():  # then the rule forbids candidates by itself
            keep &= ~(given & ~then)
    quantum, place = np.array(form.quantum), np.cumsum(keep) - 1
    links = [(given & keep, then & keep) for given, then, alone in rules if not alone]
    return Table(
        start=np.append(0, np.cumsum(keep))[form.start],
        index=form.origin[keep],
        value=form.value[keep],
        cost=form.cost[:, keep] // quantum[:, None],
        room=np.array(form.room) // quantum,
        quantum=quantum,
        usable_budget=form.usable_budget,
        links=tuple((place[given], place[then]) for given, then in links if given.any()),
    )


_Implication = tuple[NDArray[np.bool_], NDArray[np.bool_], bool]
"""[positions] whether a candidate is meant; whether it satisfies; whether of the same group"""


def _implications(problem: Problem, form: NormalForm) -> list[_Implication]:
    number = {group.name: place for place, group in enumerate(problem.groups)}

    def named(name: str, labels: tuple[Label, ...]) -> NDArray[np.bool_]:
        hits = np.zeros(len(form.value), np.bool_)
        begin, end = form.start[number[name] : number[name] + 2]
        hits[begin:end] = _has(problem.groups[number[name]], labels)[form.origin[begin:end]]
        return hits

    return [
        (
            named(rule.group, rule.labels),
            named(rule.then_group, rule.then_labels),
            rule.group == rule.then_group,
        )
        for rule in problem.rules
        if isinstance(rule, Implies)
    ]


def _has(group: Group, labels: tuple[Label, ...]) -> NDArray[np.bool_]:
    wanted = set(labels)
    return np.array([label in wanted for label in labels_of(group)])
