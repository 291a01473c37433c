"""Stacks and tables: groups of any length side by side, sorted, without what does not fit."""

import numpy as np
import pytest

from benchmarks.planning_problems import rows_of
from gacfx.knapsack import Problem, solve
from gacfx.knapsack.normal_form.lattice import flatten
from gacfx.knapsack.normal_form.stacks import stacks


def uneven(seed: int, groups: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of very different length, unsorted, with ties."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, groups)
    return [(rng.integers(0, 300, size), rng.normal(size=size)) for size in sizes]


def test_few_lengths_make_a_stack_each() -> None:
    pairs = [(np.arange(n), np.zeros(n)) for n in (3, 5, 3, 5, 3)]
    made = stacks(Problem.from_groups(pairs, 99).groups)
    assert [stack.member.tolist() for stack in made] == [[0, 2, 4], [1, 3]]
    assert all(stack.size is None for stack in made)


def test_many_lengths_share_stacks() -> None:
    made = stacks(Problem.from_groups(uneven(0, 100), 10**6).groups)
    assert len(made) <= 16
    members = np.concatenate([stack.member for stack in made])
    assert sorted(members.tolist()) == list(range(100))
    for stack in made:
        assert stack.values.shape[1] <= 1.4 * (stack.values.shape[1] if stack.size is None else 60)
        assert (np.diff(stack.member) > 0).all()


def test_candidates_count_what_was_given() -> None:
    pairs = uneven(1, 100)
    assert flatten(Problem.from_groups(pairs, 10**6)).offered == sum(len(c) for c, _ in pairs)


@pytest.mark.parametrize("budget", [5_000, 200_000])
def test_uneven_groups_are_put_in_order(budget: int) -> None:
    pairs = uneven(2, 100)
    flat = flatten(Problem.from_groups(pairs, budget))
    for number, (costs, values) in enumerate(pairs):
        extra = costs - costs.min()
        order = np.lexsort((-values, extra))
        order = order[extra[order] <= flat.room]
        part = slice(flat.start[number], flat.start[number + 1])
        assert flat.cost[part].tolist() == extra[order].tolist()
        assert flat.value[part].tolist() == values[order].tolist()
        assert flat.origin is not None
        assert flat.origin[part].tolist() == order.tolist()


def test_the_length_of_other_groups_changes_no_solution() -> None:
    pairs = uneven(3, 40)
    rng = np.random.default_rng(4)
    budget = sum(int(costs.mean()) for costs, _ in pairs)
    solution = solve(Problem.from_groups(pairs, budget))
    # One more candidate each that nobody takes: other lengths, other stacks.
    longer = [
        (np.append(costs, costs.max() + rng.integers(1, 9)), np.append(values, values.min() - 1))
        for costs, values in pairs
    ]
    again = solve(Problem.from_groups(longer, budget))
    assert again.choice == solution.choice
    assert again.value == solution.value


def test_rows_that_rise_alike_share_their_costs() -> None:
    costs = np.array([[3, 5, 9], [10, 12, 16]])
    (table,) = flatten(Problem.from_groups(rows_of(costs, np.zeros((2, 3))), 99)).tables
    assert table.cost.tolist() == [[0, 2, 6]]
    costs = costs + np.array([[0, 0, 1], [0, 0, 0]])
    (table,) = flatten(Problem.from_groups(rows_of(costs, np.zeros((2, 3))), 99)).tables
    assert table.cost.tolist() == [[0, 2, 7], [0, 2, 6]]


def test_a_row_without_its_dearest_repeats_the_last() -> None:
    costs = np.array([[0, 2, 9], [0, 3, 4]])
    flat = flatten(Problem.from_groups(rows_of(costs, np.arange(6.0).reshape(2, 3)), 5))
    (table,) = flat.tables
    assert table.size is not None
    assert table.size.tolist() == [2, 3]
    assert table.cost.tolist() == [[0, 2, 2], [0, 3, 4]]
    assert table.value.tolist() == [[0, 1, 1], [3, 4, 5]]
    assert flat.cost.tolist() == [0, 2, 0, 3, 4]
