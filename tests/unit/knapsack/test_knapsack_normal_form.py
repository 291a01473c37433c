"""The normal form: sorting, quantum, usable budget, what does not fit, dominance."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gacfx.errors import InfeasibleBudget
from gacfx.knapsack import Group, Limit, Problem, solve
from gacfx.knapsack import normal_form as nf
from gacfx.knapsack.normal_form import NormalForm, normal_form, records


def form_of(pairs: Sequence[tuple[ArrayLike, ArrayLike]], budget: int) -> NormalForm:
    return normal_form(Problem.from_groups(pairs, budget))


def with_limit(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> NormalForm:
    """The form under a limit that never binds, so that dominance plays no part."""
    groups = Problem.from_groups(pairs, 10**9).groups
    return normal_form(Problem(groups, 10**9, (Limit("none", 0, {}),)))


def uneven(seed: int, groups: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of very different length, unsorted, with ties."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, groups)
    return [(rng.integers(0, 300, size), rng.normal(size=size)) for size in sizes]


def test_cheapest_plan_is_paid_and_the_quantum_found() -> None:
    form = form_of([([10, 22, 34], [0, 1, 2]), ([5, 11], [0, 1])], 33)
    assert (form.quantum, form.room, form.least) == ((6,), (18,), (15,))
    assert form.usable_budget == 33
    assert form.cost.tolist() == [[0, 12, 0, 6]]  # 24 does not fit into 18
    assert form.origin.tolist() == [0, 1, 0, 1]
    assert form.offered == 5


def test_what_the_lattice_cannot_reach_is_not_usable() -> None:
    form = form_of([([0, 8, 16], [0, 1, 2])] * 2, 31)
    assert (form.room, form.usable_budget) == ((24,), 24)


def test_unsorted_and_equal_costs_are_put_in_order() -> None:
    form = with_limit([([4, 0, 4, 4, 2], [1, 0, 3, 3, 2])])
    assert form.cost[0].tolist() == [0, 2, 4, 4, 4]
    assert form.origin.tolist() == [1, 4, 0, 2, 3]
    assert form_of([([4, 0, 4, 4, 2], [1, 0, 3, 3, 2])], 9).origin.tolist() == [1, 4, 2]


def test_only_the_group_out_of_order_moves() -> None:
    form = form_of([([0, 1], [0, 1]), ([1, 0], [1, 0]), ([0], [5])], 9)
    assert form.origin.tolist() == [0, 1, 1, 0, 0]
    assert form.value.tolist() == [0, 1, 0, 1, 5]


def test_infeasible_names_the_shortfall() -> None:
    with pytest.raises(InfeasibleBudget, match="costs 7, which is 3 over the budget of 4") as info:
        form_of([([3], [0.0]), ([4, 9], [0.0, 1.0])], 4)
    assert (info.value.needed, info.value.budget) == (7, 4)


@pytest.mark.parametrize("huge", [0, 2**60 + 1])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("piece", [1, 100, 2**15])
def test_groups_of_any_length_are_put_in_order(
    huge: int, limited: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nf, "_PIECE", piece)
    pairs = [*uneven(2, 100), (np.array([huge, 0]), np.array([1.0, 0.0]))]
    form = with_limit(pairs) if limited else form_of(pairs, 5_000 + huge)
    for number, (costs, values) in enumerate(pairs):
        extra = costs - costs.min()
        order = np.argsort(extra, kind="stable")
        if len(form.room) == 1:  # each worth more than all before it
            order = np.lexsort((-values, extra))
            best = np.maximum.accumulate(values[order])
            order = order[np.append(True, values[order][1:] > best[:-1])]
        order = order[extra[order] <= form.room[0]]
        part = slice(form.start[number], form.start[number + 1])
        assert form.cost[0, part].tolist() == extra[order].tolist()
        assert form.value[part].tolist() == values[order].tolist()
        assert form.origin[part].tolist() == order.tolist()


def test_of_equal_candidates_the_first_stays() -> None:
    form = form_of([([0, 1, 2, 3, 3], [5, 5, 7, 6, 8]), ([0, 1], [9, 1])], 99)
    assert form.origin.tolist() == [0, 2, 4, 0]


def test_records_looks_far_back() -> None:
    values = np.array([10.0, *np.linspace(0, 9, 50), 11.0])
    assert records(values, np.zeros(52, np.int64)).tolist() == [0, 51]
    assert form_of([(np.arange(52), values)], 99).origin.tolist() == [0, 51]


def test_records_begins_anew_in_each_group() -> None:
    values, owner = np.array([3.0, 4.0, 1.0, 2.0]), np.array([0, 0, 1, 1])
    assert records(values, owner).tolist() == [0, 1, 2, 3]


def test_a_pair_is_dominated_by_the_pivoted_form_of_its_rank() -> None:
    ranks = np.arange(1, 8)
    costs = np.concatenate((ranks * 16, ranks * (16 - ranks)))
    values = -np.exp(-np.concatenate((ranks, ranks)) / 4)
    form = form_of([(costs, values)] * 3, 200)
    assert form.origin.min() >= 7
    solution = solve(Problem.from_groups([(costs, values)] * 3, 200))
    assert solution.status == "optimal"
    assert min(solution.choice) >= 7


def test_positions_are_the_way_back() -> None:
    groups = (
        Group("a", np.array([10, 14, 90]), np.zeros(3)),
        Group("b", np.array([6, 2]), np.array([1.0, 2.0])),
    )
    form = normal_form(Problem(groups, 21, (Limit("other", 9, {"a": np.array([5, 2, 2])}),)))
    assert (form.least, form.quantum, form.room) == ((12, 2), (4, 3), (8, 6))
    assert form.cost.tolist() == [[0, 4, 0, 4], [3, 0, 0, 0]]
    assert form.origin.tolist() == [0, 1, 1, 0]
    assert form.positions((1, 1)).tolist() == [1, 2]
    assert form.left(np.array([0, 3])) == (4, 3)
    assert not form.closed


@pytest.mark.parametrize("second", [9, 12])
def test_it_sees_that_nothing_can_fit(second: int) -> None:
    """Group a has no candidate left; or its only one is too much beside that of b."""
    groups = tuple(Group(name, np.array([0, 6]), np.zeros(2)) for name in "ab")
    limit = Limit("other", second, {name: np.array([10, 0]) for name in "ab"})
    assert normal_form(Problem(groups, 9 if second == 9 else 5, (limit,))).closed


def test_the_length_of_other_groups_changes_no_solution() -> None:
    pairs = uneven(3, 40)
    rng = np.random.default_rng(4)
    budget = sum(int(costs.mean()) for costs, _ in pairs)
    solution = solve(Problem.from_groups(pairs, budget))
    longer = [
        (np.append(costs, costs.max() + rng.integers(1, 9)), np.append(values, values.min() - 1))
        for costs, values in pairs
    ]
    again = solve(Problem.from_groups(longer, budget))
    assert again.choice == solution.choice
    assert again.value == solution.value
