"""Groups of one label: merged exactly, solved, expanded, and refused with words."""

import numpy as np
import pytest

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.limits import Implies, Label, Limit, SameLabel
from gacfx.knapsack.one_budget.core import solve
from gacfx.knapsack.problem import Group, Problem
from gacfx.knapsack.rules.merge import merge
from gacfx.knapsack.rules.reduction import components, usable_budget
from tests.unit.knapsack.small_problems import brute_force, labels_of, random_problem

RANKS: tuple[Label, ...] = (8, 16, 24)


def group(name: str, costs: list[int], labels: tuple[Label, ...] = RANKS) -> Group:
    values = np.array([number + 0.25 for number in range(len(costs))])
    return Group(name, np.array(costs), values, labels)


Q, K = group("q", [10, 20, 30]), group("k", [1, 2, 3], (24, 8, "dense"))
V, U = group("v", [5, 6, 7], ()), group("u", [7, 5, 6], ())


def test_costs_values_and_limits_are_sums_over_common_labels() -> None:
    kv = Limit(
        "kv", 9, {"q": np.array([1, 2, 3]), "k": np.array([10, 20, 30]), "v": np.array([1, 1, 1])}
    )
    merged = merge(Problem((V, Q, K), 99, (kv,), (SameLabel(("k", "q")),)))
    first, both = merged.problem.groups
    assert first is V
    assert (both.name, both.labels) == ("q", (8, 24))
    assert both.costs.tolist() == [12, 31]
    assert both.values.tolist() == [1.5, 2.5]
    assert {name: row.tolist() for name, row in merged.problem.limits[0].costs.items()} == {
        "v": [1, 1, 1],
        "q": [21, 13],
    }
    assert merged.problem.rules == ()
    assert merged.members == ((0,), (1, 2))
    assert merged.picks[1].tolist() == [[0, 2], [1, 0]]


def test_without_labels_the_index_is_the_label() -> None:
    merged = merge(Problem((V, U), 99, (), (SameLabel(("v", "u")),)))
    assert merged.problem.groups[0].costs.tolist() == [12, 11, 13]
    assert merged.problem.groups[0].labels == (0, 1, 2)


def test_rules_that_share_a_group_tie_all_of_them() -> None:
    rules = (SameLabel(("a", "b")), SameLabel(("c", "d")), SameLabel(("d", "b")))
    groups = tuple(group(name, [1, 2, 3]) for name in "abcde")
    assert merge(Problem(groups, 99, (), rules)).members == ((0, 1, 2, 3), (4,))


def test_components_are_in_order_whatever_the_order_of_ties() -> None:
    assert components(6, [(4, 5), (3, 1), (5, 1)]) == [(0,), (1, 3, 4, 5), (2,)]
    assert components(3, []) == [(0,), (1,), (2,)]
    chain = [(number, number + 1) for number in range(5000)]
    assert components(5001, reversed(chain)) == [tuple(range(5001))]


def test_a_merged_group_has_a_name_that_no_other_can_have() -> None:
    groups = tuple(group(name, [1, 2, 3]) for name in ("a", "b", "a & b"))
    merged = merge(Problem(groups, 99, (), (SameLabel(("a", "b")),)))
    assert [found.name for found in merged.problem.groups] == ["a", "a & b"]


def test_nothing_in_common_is_named() -> None:
    groups = (group("a", [1, 2], (8, 16)), group("b", [1], (32,)))
    with pytest.raises(PlanError, match="groups 'a', 'b' must take one label, but have none in"):
        merge(Problem(groups, 99, (), (SameLabel(("a", "b")),)))


def test_implications_move_to_the_merged_groups() -> None:
    kept = Implies("k", (8, "dense"), "v", (1,))
    rules = (
        kept,
        Implies("k", ("dense",), "v", (1,)),  # "dense" is no label of q, so it never applies
        Implies("v", (1,), "k", ("dense", 24)),
        Implies("q", (8,), "k", (24,)),
        SameLabel(("q", "k")),
    )
    merged = merge(Problem((Q, K, V), 99, (), rules))
    assert merged.problem.rules == (
        Implies("q", (8,), "v", (1,)),
        Implies("v", (1,), "q", (24,)),
        Implies("q", (8,), "q", (24,)),
    )


def test_rounding_of_sums_is_owned_up_to() -> None:
    # 1e16 + 1 has no float64, so the merged problem cannot see that the first two are worth 1 more.
    pairs: list[FloatArray] = [np.array([0.0, 1e16]), np.array([0.0, 1.0]), np.array([-1e16, 0.0])]
    groups = tuple(
        Group(name, np.array([0, 2]), values, (8, 16))
        for name, values in zip("abc", pairs, strict=True)
    )
    problem = Problem(groups, 5, (), (SameLabel(("a", "b")),))
    merged = merge(problem)
    assert merged.rounding == 1
    solution = merged.invert(solve(merged.problem))
    check(problem, solution).require()
    assert solution.usable_budget == usable_budget(problem) == 4
    assert solution.bound >= brute_force(problem) == 1
    assert solution.value == 0
    assert solution.status == "optimal"
    assert solution.gap <= solution.rounding_bound


def test_a_problem_without_rules_stays_itself() -> None:
    problem = Problem((Q, V), 36)
    merged = merge(problem)
    assert merged.problem == problem
    found = solve(problem)
    assert merged.invert(found) == found


def test_merging_equals_brute_force() -> None:
    rng = np.random.default_rng(4)
    seen = 0
    while seen < 200:
        problem = random_problem(rng, limits=0, rules=0)
        if not problem.rules:
            continue
        best = brute_force(problem)
        try:
            merged = merge(problem)
            solution = merged.invert(solve(merged.problem))
        except InfeasibleBudget:
            assert best == -np.inf
        except PlanError:
            tied = [g for g in problem.groups if g.name in problem.rules[0].groups]  # type: ignore[union-attr]
            assert not set.intersection(*(set(labels_of(found)) for found in tied))
        else:
            seen += 1
            assert abs(solution.value - best) <= solution.rounding_bound + 1e-14 * abs(best)
            certificate = check(problem, solution)
            certificate.require()
            assert certificate.certified_gap >= -solution.rounding_bound


def layers(count: int) -> tuple[Group, ...]:
    """gate, up and down of some layers; width 512 * j keeps j of 8 parts of the importance."""
    rng = np.random.default_rng(1)
    widths: IntArray = 512 * np.arange(1, 9)
    return tuple(
        Group(
            f"layers.{layer}.{part}",
            widths * 1024,
            -rng.lognormal() * (1 - (np.arange(1, 9) / 8) ** 0.5),
            tuple(widths.tolist()),
        )
        for layer in range(count)
        for part in ("gate", "up", "down")
    )


@pytest.mark.parametrize("across", [False, True])
def test_pruned_widths_are_tied_in_a_layer_or_across_all_layers(across: bool) -> None:
    groups = layers(32)
    names = [found.name for found in groups]
    per_layer = tuple(SameLabel(tuple(names[at : at + 3])) for at in range(0, len(names), 3))
    rules = (SameLabel(tuple(names)),) if across else per_layer
    dense = sum(int(found.costs.max()) for found in groups)
    problem = Problem(groups, dense * 7 // 10, (), rules)
    merged = merge(problem)
    solution = merged.invert(solve(merged.problem))
    check(problem, solution).require()
    widths = [found.labels[j] for found, j in zip(groups, solution.choice, strict=True)]
    by_layer = [set(widths[at : at + 3]) for at in range(0, len(widths), 3)]
    assert all(len(found) == 1 for found in by_layer)
    if across:  # one width for a plain architecture: the largest that fits, as more is worth more
        assert set(widths) == {512 * (8 * 7 // 10)}
    else:
        assert len(set(widths)) > 1
        assert solution.value > -sum(float(-found.values[4]) for found in groups)
