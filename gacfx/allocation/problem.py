"""Curves and candidates as a knapsack: a group for each weight or structure, an item for each
candidate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gacfx.allocation.joint import Joint
from gacfx.core.curves import Curve, ListedCurve
from gacfx.core.offered import Candidates, Offered
from gacfx.errors import PassError
from gacfx.knapsack import Group, Problem
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.limits import Implies, Limit, SameLabel


def make_problem(
    curves: Mapping[str, Curve | Joint | ListedCurve], offered: Offered, limit_params: int
) -> Problem:
    """Weights as groups, candidates as items, value = minus the loss; limits and rules as given.

    Raises:
        PassError: a candidate that is no decision for its weight, or a limit or rule of another
            kind.
        PlanError: a limit or rule that speaks of what is not there.
    """
    assert offered.candidates is not None
    for limit in offered.limits:
        if not isinstance(limit, Limit):
            raise PassError(f"solve: limit {limit!r} is no gacfx.knapsack.limits.Limit")
    for rule in offered.rules:
        if not isinstance(rule, SameLabel | Implies):
            raise PassError(f"solve: rule {rule!r} is neither SameLabel nor Implies")
    # Weights of one shape share their candidates; hashing them each time would take longest.
    axes: dict[tuple[int, int, int], Axis] = {}
    groups = []
    for name, curve in curves.items():
        candidates = offered.candidates[name]
        if isinstance(curve, Joint):
            groups.append(_joint_group(curve, candidates))
            continue
        if isinstance(curve, ListedCurve):
            groups.append(_listed_group(curve, candidates))
            continue
        key = (curve.rows, curve.columns, id(candidates))
        if key not in axes:
            axes[key] = Axis.make(curve, candidates)
        groups.append(axes[key].group(curve))
    return Problem(tuple(groups), limit_params, offered.limits, offered.rules)


def _joint_group(joint: Joint, candidates: Candidates) -> Group:
    """The candidates of a structure."""
    at = joint.at(candidates)
    labels = tuple(each.label for each in candidates)
    return Group(joint.name, joint.params[at], -joint.losses[at], labels)


def _listed_group(curve: ListedCurve, candidates: Candidates) -> Group:
    """The candidates of a weight that are worth what is listed."""
    shape = curve.rows, curve.columns
    costs = np.array([each.params(*shape) for each in candidates], np.int64)
    values = np.array([-curve.loss(each) for each in candidates])
    return Group(curve.module, costs, values, tuple(each.label for each in candidates))


@dataclass(frozen=True, eq=False)
class Axis:
    """Candidates of one shape of weight: the solver looks at shared arrays only once."""

    ranks: IntArray
    """[candidates] entry of the curve; -1 for what loses nothing."""
    first: Group
    """One weight of this shape: the parameters that each candidate keeps, and the labels."""

    @staticmethod
    def make(curve: Curve, candidates: Candidates) -> "Axis":
        """The candidates of a weight.

        Raises:
            PassError: there is none, or one that the weight cannot have.
        """
        shape = curve.rows, curve.columns
        wrong = [problem for each in candidates if (problem := each.problem(*shape))]
        if wrong or not candidates:
            what = wrong[0] if wrong else "no candidate is left"
            raise PassError(f"solve: {curve.module}: {what}; look at the pass that lists them")
        ranks = [-1 if each.rank is None else each.rank for each in candidates]
        costs = np.array([each.params(*shape) for each in candidates], np.int64)
        labels = tuple(each.label for each in candidates)
        first = Group(curve.module, costs, np.zeros(len(costs)), labels)
        return Axis(np.array(ranks, np.int64), first)

    def group(self, curve: Curve) -> Group:
        """One weight of this shape."""
        none = not len(curve.loss_nats)  # of a weight that failed: only dense is offered
        losses = np.zeros(len(self.ranks)) if none else curve.loss_nats[self.ranks]
        return self.first.alike(curve.module, np.where(self.ranks < 0, 0.0, -losses))
