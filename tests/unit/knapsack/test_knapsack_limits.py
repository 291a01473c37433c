"""Limits and rules: what is refused and with which words, equality, copies."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.knapsack.limits import Implies, Limit, SameLabel
from gacfx.knapsack.problem import Group, Problem

COSTS = np.array([1, 2])
Q = Group("q", COSTS, np.zeros(2), (8, "dense"))
K = Group("k", COSTS, np.zeros(2))

# Wrong types are given on purpose.
implies: Any = Implies
same_label: Any = SameLabel


def limit(name: Any = "kv", most: Any = 3, **costs: Any) -> Limit:
    return Limit(name, most, costs or {"q": COSTS})


def limit_of(costs: Any) -> Limit:
    return Limit("kv", 3, costs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: limit(""), "limit name '': must be a string that is not empty"),
        (lambda: limit(7), "limit name 7"),
        (lambda: limit(most=-1), "limit 'kv' -1: must lie in 0"),
        (lambda: limit(most=1.5), "limit 'kv' 1.5: must be an int"),
        (lambda: limit(most=True), "limit 'kv' is a bool"),
        (lambda: limit(most=2**62), "must lie in 0"),
        (lambda: limit(q=[]), "limit 'kv': group 'q': no candidate left"),
        (lambda: limit(q=[1, -2]), "limit 'kv': group 'q': cost -2 of candidate 1 < 0"),
        (lambda: limit(q=[1.5, 2]), "limit 'kv': group 'q': cost 1.5 of candidate 0"),
        (lambda: limit(q=[True, False]), "limit 'kv': group 'q': costs hold a bool"),
        (lambda: limit(q=[2**61, 0], k=[2**61, 0]), r"limit 'kv': costs sum to 2\*\*62 or more"),
        (lambda: limit_of([COSTS]), "limit 'kv': costs must map names of groups"),
        (lambda: implies("", (8,), "k", (0,)), "Implies: group name '' must be a string"),
        (lambda: implies("q", (8,), 3, (0,)), "Implies: group name 3 must be a string"),
        (lambda: implies("q", (), "k", (0,)), "without labels it never applies"),
        (lambda: implies("q", "dense", "k", (0,)), r"labels is 'dense'; give a tuple"),
        (lambda: implies("q", (8,), "k", 0), r"then_labels is 0; give a tuple, such as \(0,\)"),
        (lambda: implies("q", (8.0,), "k", (0,)), "labels hold 8.0; a label is an int or a"),
        (lambda: implies("q", (8,), "k", (True,)), "then_labels hold True"),
        (lambda: same_label("qk"), "SameLabel: groups is 'qk'; give a tuple"),
        (lambda: same_label(("q", "")), "SameLabel: group name '' must be a string"),
    ],
)
def test_malformed_limits_and_rules_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (limit(v=COSTS), "limit 'kv': there is no group 'v'"),
        (limit(q=[1, 2, 3]), "limit 'kv': 3 costs for the 2 candidates of group 'q'"),
        (Implies("v", (8,), "k", (0,)), "Implies.*: there is no group 'v'"),
        (Implies("q", (8,), "v", (0,)), "Implies.*: there is no group 'v'"),
        (Implies("q", (9,), "k", (0,)), "group 'q': no candidate has the label 9"),
        (Implies("q", (8,), "k", ("dense",)), "group 'k': no candidate has the label 'dense'"),
        (Implies("q", (8,), "k", (2,)), "group 'k': no candidate has the label 2"),
        (SameLabel(("q", "v")), "SameLabel.*: there is no group 'v'"),
        (SameLabel(("q", "q")), "name each group once, and at least one"),
        (SameLabel(()), "name each group once, and at least one"),
    ],
)
def test_what_is_not_there_is_named(extra: Limit | Implies | SameLabel, message: str) -> None:
    limits = (extra,) if isinstance(extra, Limit) else ()
    rules = () if isinstance(extra, Limit) else (extra,)
    with pytest.raises(PlanError, match=message):
        Problem((Q, K), 10, limits, rules)


def test_two_limits_of_one_name_are_refused() -> None:
    with pytest.raises(PlanError, match="limit 'kv': the name is used twice"):
        Problem((Q, K), 10, (limit(), limit()))


def test_limits_without_groups_and_of_nothing_are_legal() -> None:
    problem = Problem((Q, K), 10, (limit("none", 0), Limit("empty", 5, {})))
    assert [len(found.costs) for found in problem.limits] == [1, 0]


def test_lists_become_tuples_and_arrays_become_read_only() -> None:
    assert implies("q", [8], "k", [0]) == Implies("q", (8,), "k", (0,))
    assert same_label(["q", "k"]) == SameLabel(("q", "k"))
    given = np.array([1, 2])
    made = limit(q=given)
    given[0] = 99
    assert made.costs["q"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        made.costs["q"][0] = 1
    with pytest.raises(TypeError, match="item assignment"):
        made.costs["q"] = COSTS  # type: ignore[index]


def test_equality_looks_at_the_numbers() -> None:
    assert limit() == limit(q=[1, 2])
    assert hash(limit()) == hash(limit())
    assert limit() != limit(q=[1, 3])
    assert limit() != limit(most=4)
    assert limit() != limit("other")
    assert limit() != "kv"


def test_a_limit_can_be_copied() -> None:
    problem = Problem((Q, K), 10, (limit(),), (SameLabel(("q",)),))
    again = copy.deepcopy(problem)
    assert again == problem
    assert again.limits[0] is not problem.limits[0]
