"""Blocks: the same problem as group by group, checks, and groups that appear when asked for."""

import json

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack import Group, Problem, solve
from gacfx.knapsack.blocks import Block, GroupsOfBlocks


def both_ways(rng: np.random.Generator) -> tuple[Problem, Problem]:
    """One problem made from blocks, and made from groups."""
    blocks: list[Block] = []
    pairs: list[tuple[ArrayLike, ArrayLike]] = []
    for _ in range(int(rng.integers(1, 5))):
        groups, candidates = int(rng.integers(1, 7)), int(rng.integers(1, 9))
        shared = bool(rng.integers(2))
        costs = rng.integers(0, 60, candidates if shared else (groups, candidates))
        costs = np.sort(costs) if rng.integers(2) else costs
        values = rng.integers(-9, 9, (groups, candidates)) / 4
        blocks.append(Block(costs, values))
        rows = [costs] * groups if shared else list(costs)
        pairs += list(zip(rows, values, strict=True))
    most = sum(int(np.max(costs)) for costs, _ in pairs)
    budget = int(rng.uniform(0.2, 1.1) * most)
    return Problem.from_blocks(blocks, budget), Problem.from_groups(pairs, budget)


def test_blocks_and_groups_are_the_same_problem_with_the_same_solution() -> None:
    rng = np.random.default_rng(3)
    solved = 0
    for _ in range(300):
        blocks, groups = both_ways(rng)
        assert blocks == groups
        assert groups == blocks
        try:
            solution, other = solve(blocks), solve(groups)
        except InfeasibleBudget:
            continue
        assert solution.choice == other.choice
        assert (solution.value, solution.bound) == (other.value, other.bound)
        assert (solution.multiplier, solution.usable_budget) == (
            other.multiplier,
            other.usable_budget,
        )
        solved += 1
    assert solved > 200


def test_groups_appear_when_somebody_looks() -> None:
    costs, values = np.array([8, 16]), np.array([[0.0, 1.0], [0.0, 2.0]])
    problem = Problem.from_blocks([Block(costs, values, ("q", "k"), (8, "dense"))], 24)
    solve(problem)
    assert isinstance(problem.groups, GroupsOfBlocks)
    assert "_all" not in vars(problem.groups)
    assert len(problem.groups) == 2
    assert [group.name for group in problem.groups] == ["q", "k"]
    assert problem.groups[1] == Group("k", costs, values[1], (8, "dense"))
    assert problem.groups[0] is problem.groups[0]
    assert problem.groups[0].costs is problem.groups[1].costs
    assert problem.groups[:1] == (problem.groups[0],)


def test_names_are_numbers_in_the_problem() -> None:
    blocks = [
        Block(np.array([1]), np.zeros((2, 1))),
        Block(np.array([1]), np.zeros((1, 1)), ("q",)),
    ]
    problem = Problem.from_blocks([*blocks, blocks[0]], 9)
    assert [group.name for group in problem.groups] == [
        "group0",
        "group1",
        "q",
        "group3",
        "group4",
    ]


def test_json_is_that_of_the_groups() -> None:
    blocks, groups = both_ways(np.random.default_rng(1))
    assert json.loads(blocks.to_json())["groups"] == json.loads(groups.to_json())["groups"]
    assert Problem.from_json(blocks.to_json()) == blocks
    assert hash(Problem.from_json(blocks.to_json())) == hash(blocks)


def test_read_only_arrays_are_not_copied() -> None:
    costs, values = np.arange(3), np.zeros((2, 3))
    made = Block(costs, values)
    costs[0] = 7
    assert made.costs.tolist() == [0, 1, 2]
    values.setflags(write=False)
    assert np.shares_memory(Block(costs, values).values, values)
    with pytest.raises(ValueError, match="read-only"):
        made.values[0, 0] = 1


@pytest.mark.parametrize(
    ("costs", "values", "message"),
    [
        ([1, 2], [0.0, 1.0], r"values have shape \(2,\); give \[groups, candidates\]"),
        ([1, 2], [[0.0, 1.0, 2.0]], r"costs have shape \(2,\), values \(1, 3\)"),
        ([[1, 2]], [[0.0, 1.0]] * 2, r"costs have shape \(1, 2\), values \(2, 2\)"),
        ([1, -2], [[0.0, 1.0]], "cost -2 of candidate 1 < 0"),
        ([1, 2], [[0.0, 1.0], [0.0, np.nan]], "group 'k': value of candidate 1 is nan"),
        ([[1, 2], [1, -3]], [[0.0, 1.0]] * 2, "group 'k': cost -3 of candidate 1 < 0"),
        ([], np.zeros((2, 0)), "no candidate left"),
        ([1], np.zeros((0, 1)), "no candidate left"),
    ],
)
def test_bad_blocks_are_named(costs: ArrayLike, values: ArrayLike, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Block(costs, values, ("q", "k"))  # type: ignore[arg-type]


def test_bad_names_are_named() -> None:
    costs, values = np.array([1]), np.zeros((2, 1))
    with pytest.raises(PlanError, match="3 names for 2 groups"):
        Block(costs, values, ("a", "b", "c"))
    with pytest.raises(PlanError, match="group name ''"):
        Block(costs, values, ("a", ""))
    with pytest.raises(PlanError, match="group 'a': the name is used twice"):
        Problem.from_blocks([Block(costs, values, ("a", "b")), Block(costs, values, ("c", "a"))], 9)
    with pytest.raises(PlanError, match="group 'group0': the name is used twice"):
        Problem.from_blocks([Block(costs, values), Block(costs, values, ("group0", "b"))], 9)


@pytest.mark.parametrize("rows", [1, 2])
def test_costs_whose_sum_leaves_int64_are_refused(rows: int) -> None:
    costs = np.full((2, 1), 2**61) if rows == 2 else np.array([2**61])
    with pytest.raises(PlanError, match=r"sum to 2\*\*62 or more"):
        Problem.from_blocks([Block(costs, np.zeros((2, 1)))], 10)
