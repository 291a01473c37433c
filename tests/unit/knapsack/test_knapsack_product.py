"""Implications by products of groups: which combinations stay, and when there are too many."""

from dataclasses import replace

import numpy as np
import pytest

from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.limits import Implies, Limit
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules import product
from gacfx.knapsack.rules.product import multiply
from tests.unit.knapsack.small_problems import brute_force

Q = Group("q", np.array([0, 2, 4]), np.array([0.0, 1.0, 5.0]), (8, 16, "dense"))
K = Group("k", np.array([1, 2, 3]), np.array([0.0, 2.0, 3.0]), (8, 16, "dense"))
V = Group("v", np.array([7, 8]), np.array([0.0, 1.0]))
RULE = Implies("q", ("dense",), "k", (16, "dense"))


def test_only_combinations_worth_more_than_every_cheaper_one_stay() -> None:
    found = multiply(Problem((Q, V, K), 20, (), (RULE,)))
    assert found is not None
    both, alone = found.problem.groups
    assert alone is V
    assert found.members == ((0, 2), (1,))
    assert found.picks[0].tolist() == [[0, 0, 0, 1, 2, 2], [0, 1, 2, 2, 1, 2]]
    assert (both.name, both.labels) == ("q", ())
    assert both.costs.tolist() == [1, 2, 3, 5, 6, 7]
    assert both.values.tolist() == [0, 2, 3, 4, 7, 8]
    assert found.problem.budget == 20
    assert found.problem.rules == ()


def test_what_costs_under_a_limit_is_kept_whatever_it_is_worth() -> None:
    limit = Limit("ns", 9, {"k": np.array([5, 3, 1])})
    found = multiply(Problem((Q, V, K), 20, (limit,), (RULE,)))
    assert found is not None
    assert found.problem.groups[0].costs.tolist() == [1, 2, 3, 3, 4, 5, 6, 7]
    assert found.problem.limits[0].costs["q"].tolist() == [5, 3, 1, 5, 3, 1, 3, 1]
    assert found.problem.limits[0].most == 9
    other = multiply(Problem((Q, V, K), 20, (Limit("ns", 9, {"v": np.array([5, 3])}),), (RULE,)))
    assert other is not None
    assert len(other.problem.groups[0].costs) == 6
    assert other.problem.limits[0].costs["v"].tolist() == [5, 3]


def test_a_rule_about_one_group_takes_candidates_away() -> None:
    found = multiply(Problem((Q, K), 20, (), (Implies("q", (8, "dense"), "q", (8, 16)),)))
    assert found is not None
    assert found.problem.groups[0].costs.tolist() == [0, 2]
    assert found.problem.groups[1] is K


def test_no_combination_and_too_many_give_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert multiply(Problem((Q, K), 20, (), (Implies("q", Q.labels, "k", ()),))) is None
    problem = Problem((Q, K), 20, (), (RULE,))
    monkeypatch.setattr(product, "_MOST_COMBINATIONS", 9)
    assert multiply(problem) is not None
    monkeypatch.setattr(product, "_MOST_COMBINATIONS", 8)
    assert multiply(problem) is None
    monkeypatch.setattr(product, "_MOST_COMBINATIONS", 9)
    monkeypatch.setattr(product, "_MOST_CANDIDATES", 5)
    assert multiply(problem) is None


def test_dominated_combinations_are_found_on_any_costs() -> None:
    rng = np.random.default_rng(2)
    for high in (3, 50, 10**6, 2**60):
        groups = tuple(
            Group(name, rng.integers(0, high, 30), rng.integers(-9, 9, 30).astype(np.float64))
            for name in "ab"
        )
        every = [
            (int(groups[0].costs[i] + groups[1].costs[j]), float(a + b))
            for i, a in enumerate(groups[0].values)
            for j, b in enumerate(groups[1].values)
            if i != 3 or j == 4
        ]
        best = [(c, v) for c, v in every if not any(d <= c and w > v for d, w in every)]
        best = sorted(x for x in best if not any(c < x[0] and v == x[1] for c, v in best))
        found = multiply(Problem(groups, 2**61, (), (Implies("a", (3,), "b", (4,)),)))
        assert found is not None
        made = found.problem.groups[0]
        assert list(zip(made.costs.tolist(), made.values.tolist(), strict=True)) == sorted(
            set(best)
        )


def test_rounding_of_sums_is_owned_up_to() -> None:
    big = replace(Q, values=np.array([0.0, 1e16, 1e16]))
    small = replace(K, values=np.array([0.0, 1.0, 1.0]))
    problem = Problem((big, small, V), 12, (), (RULE,))
    found = multiply(problem)
    assert found is not None
    assert found.rounding == 1
    solution = found.invert(solve(found.problem))
    check(problem, solution).require()
    assert solution.bound >= brute_force(problem)
    exact = multiply(Problem((Q, K, V), 12, (), (RULE,)))
    assert exact is not None and exact.rounding == 0


def test_pairs_of_long_curves_shrink_to_few() -> None:
    rank = np.arange(1, 400)
    groups = tuple(
        Group(name, 4096 * rank, np.sqrt(rank) * (1 + index), ())
        for index, name in enumerate(("gate", "up"))
    )
    found = multiply(Problem(groups, 4096 * 400, (), (Implies("gate", (398,), "up", (398,)),)))
    assert found is not None
    assert len(found.problem.groups[0].costs) < 800
