"""Curves and candidates as a knapsack: costs and values by the formulas of each form."""

from typing import Any

import numpy as np
import pytest

from gacfx.allocation.problem import make_problem
from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.offered import Candidates, Offered
from gacfx.errors import PassError, PlanError
from gacfx.knapsack.limits import Limit, SameLabel
from tests.unit import made_curves

A, B = made_curves.LOSSES
BOTH: Candidates = (LowRank(1), LowRank(3), Pivot(1), Pivot(3), Pivot(7), DENSE)


def offered(candidates: Candidates = BOTH) -> Offered:
    found = Offered()
    found.offer(dict.fromkeys(made_curves.LOSSES, candidates))
    return found


def test_costs_values_and_labels_of_both_forms() -> None:
    problem = make_problem(made_curves.curves().curves, offered(), 100)
    assert problem.budget == 100
    assert [group.name for group in problem.groups] == [A, B]
    for group in problem.groups:
        losses = made_curves.LOSSES[group.name]
        assert group.labels == (1, 3, "pivot 1", "pivot 3", "pivot 7", "dense")
        assert group.costs.tolist() == [16, 48, 15, 39, 63, 64]
        assert group.values.tolist() == [-losses[r] for r in (1, 3, 1, 3, 7)] + [0.0]


def test_weights_of_one_shape_share_their_costs() -> None:
    first, second = make_problem(made_curves.curves().curves, offered(), 100).groups
    assert first.costs is second.costs and first.labels is second.labels


def test_the_same_candidates_cost_more_for_a_larger_weight() -> None:
    curves = {
        "a": Curve("a", 8, 8, np.zeros(9), "fisher"),
        "b": Curve("b", 8, 16, np.zeros(9), "fisher"),
        "c": Curve("c", 16, 8, np.zeros(9), "fisher"),
    }
    shared: Candidates = (LowRank(3), Pivot(3), DENSE)
    found = Offered()
    found.offer(dict.fromkeys(curves, shared))
    costs = [group.costs.tolist() for group in make_problem(curves, found, 100).groups]
    assert costs == [[48, 39, 64], [72, 63, 128], [72, 63, 128]]


def test_a_weight_without_a_curve_loses_nothing_dense() -> None:
    curves = {"a": Curve("a", 8, 8, np.zeros(0), "fisher", "no statistics")}
    found = Offered()
    found.offer({"a": (DENSE,)})
    (group,) = make_problem(curves, found, 100).groups
    assert (group.costs.tolist(), group.values.tolist(), group.labels) == ([64], [0.0], ("dense",))


def test_limits_and_rules_go_along() -> None:
    found = offered()
    limit, rule = Limit("l", 9, {A: np.arange(6)}), SameLabel((A, B))
    found.limit(limit)
    found.rule(rule)
    found.rule(rule)
    problem = make_problem(made_curves.curves().curves, found, 100)
    assert (problem.limits, problem.rules) == ((limit,), (rule,))


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ((), "no candidate is left"),
        ((LowRank(9),), "rank 9 is outside 1 .. 8"),
        ((LowRank(0), DENSE), "rank 0 is outside 1 .. 8"),
        ((Pivot(8), DENSE), "pivot rank 8 is outside 1 .. 7"),
    ],
    ids=str,
)
def test_what_a_weight_cannot_have_is_refused(candidates: Candidates, message: str) -> None:
    with pytest.raises(PassError, match=f"^solve: {A}: {message}; look at the pass that lists"):
        make_problem(made_curves.curves().curves, offered(candidates), 100)


def test_two_candidates_of_one_label_are_refused() -> None:
    with pytest.raises(PlanError, match=A):
        make_problem(made_curves.curves().curves, offered((Pivot(1), Pivot(1))), 100)


@pytest.mark.parametrize("odd", ["fast", 3, None])
def test_what_is_no_limit_and_no_rule_is_refused(odd: Any) -> None:
    found = offered()
    found.rule(odd)
    with pytest.raises(PassError, match="is neither SameLabel nor Implies"):
        make_problem(made_curves.curves().curves, found, 100)
    found = offered()
    found.limits = (odd,)
    with pytest.raises(PassError, match="is no gacfx.knapsack.limits.Limit"):
        make_problem(made_curves.curves().curves, found, 100)
