"""Decisions of structured pruning: what they keep, what they store, and what they refuse."""

import re

import numpy as np
import pytest

from gacfx.core.decision import DENSE, Decision, Gemm, LowRank, Pivot, PivotInOrder
from gacfx.core.kinds import read_decision, write_decision
from gacfx.core.padding import Padded
from gacfx.core.pruning import GONE, Each, Heads, Skip, Sliced, Width, odd_parts
from gacfx.core.structures import Positions

WIDTH = Width((Sliced(3, 8), Sliced(3, 8, LowRank(2)), Sliced(8, 3)), (0, 2, 5))
HEADS = Heads((Sliced(8, 8), Sliced(4, 8, Pivot(3))), (1, 3), ((0,), (1,)))


@pytest.mark.parametrize("decision", [WIDTH, HEADS, Skip(), Each((DENSE, LowRank(2))), GONE])
def test_what_is_written_is_read(decision: Decision) -> None:
    assert read_decision(write_decision(decision)) == decision


def test_a_slice_costs_what_is_left() -> None:
    dense, pair = Sliced(3, 8), Sliced(3, 8, LowRank(2))
    assert (dense.params(10, 8), pair.params(10, 8)) == (24, 2 * (3 + 8))
    assert dense.work(10, 8, True) == (Gemm(8, 3, True),)
    assert dense.tensors(10, 8)["weight"].shape == (3, 8)
    assert pair.tensors(10, 8).keys() == {"down", "up"}
    assert (dense.sizes(10, 8), pair.sizes(10, 8), Sliced(10, 8).sizes(10, 8)) == ((3,), (3, 2), ())
    assert (dense.rank, pair.rank, dense.is_dense) == (None, 2, False)


@pytest.mark.parametrize(
    ("decision", "shape", "problem"),
    [
        (Sliced(0, 8), (10, 8), "0 outputs are outside 1 .. 10"),
        (Sliced(11, 8), (10, 8), "11 outputs are outside 1 .. 10"),
        (Sliced(3, 9), (10, 8), "9 inputs are outside 1 .. 8"),
        (Sliced(3, 8, LowRank(4)), (10, 8), "rank 4 is outside 1 .. 3"),
        (Sliced(3, 8, Sliced(2, 8)), (10, 8), "what is left of a slice is no sliced"),
        (Sliced(3, 8, Padded(4, 8)), (10, 8), "what is left of a slice is no padded"),
        (WIDTH, (10, 8), "width is a decision for several weights"),
    ],
)
def test_what_a_weight_cannot_have(
    decision: Decision, shape: tuple[int, int], problem: str
) -> None:
    assert decision.problem(*shape) == problem


@pytest.mark.parametrize(
    ("decision", "count", "problem"),
    [
        (WIDTH, 3, ""),
        (WIDTH, 2, "width has 3 parts for 2 weights"),
        (Width((DENSE,), ()), 1, "the channels that stay"),
        (Width((DENSE,), (2, 2)), 1, "the channels that stay"),
        (Width((DENSE,), (-1, 2)), 1, "the channels that stay"),
        (Width((WIDTH,), (1,)), 1, "its part width is no decision for one weight"),
        (HEADS, 2, ""),
        (Heads((DENSE,), (0, 1), ((0,), (0, 1))), 1, "equally many query heads"),
        (Heads((DENSE,), (0, 1), ((0,),)), 1, "equally many query heads"),
        (Heads((DENSE,), (0,), ((1, 0),)), 1, "the query heads that stay"),
        (Skip(), 7, ""),
    ],
)
def test_what_a_group_cannot_have(decision: Decision, count: int, problem: str) -> None:
    found = decision.misfit(count)
    assert problem in found if problem else not found


UP, DOWN = (10, 8), (8, 10)


@pytest.mark.parametrize(
    ("decision", "shapes", "problem"),
    [
        (WIDTH, [UP, UP, DOWN], ""),
        (WIDTH, [UP, UP], "width has 3 parts for 2 weights"),
        (Width((Sliced(6, 8), Sliced(8, 3)), (0, 2, 5)), [(20, 8), DOWN], ""),  # gate and up in one
        (Width((Sliced(10, 8), Sliced(8, 10)), tuple(range(10))), [UP, DOWN], ""),
        (Width((Sliced(3, 8), Sliced(8, 4)), (0, 2, 5)), [UP, DOWN], "keeps 4 of 10"),
        (Width((Sliced(3, 8), Sliced(8, 3)), (0, 2)), [UP, DOWN], "it keeps 2 channels"),
        (Width((Sliced(3, 8), Sliced(8, 3)), (0, 2, 10)), [UP, DOWN], "the last one number 10"),
        (Width((Sliced(4, 8), Sliced(8, 3)), (0, 2, 5)), [UP, DOWN], "7 channels go, and .* 6 out"),
        (Width((DENSE, Sliced(8, 3)), (0, 2, 5)), [UP, DOWN], "7 channels go, and .* loses 0"),
        (Width((Sliced(3, 8), DENSE), (0, 2, 5)), [UP, DOWN], "keeps 0 of 0"),
        (Width((Sliced(3, 3), Sliced(8, 3)), (0, 2, 5)), [UP, DOWN], "loses inputs at most"),
        (Width((GONE, Sliced(8, 3)), (0, 2, 5)), [UP, DOWN], "gone outside of a width"),
        (Heads((Sliced(8, 8), Sliced(8, 8)), (0,), ((0,),)), [(16, 8), (8, 16)], ""),
        (
            Heads((Padded(16, 8), Sliced(8, 8)), (0,), ((0,),)),
            [UP, (8, 16)],
            "padded to 16 x 8 out",
        ),
        (Each((Sliced(3, 8), DENSE)), [UP, DOWN], "3 x 8 outside of a width, heads or skip"),
        (Each((LowRank(2), DENSE)), [UP, DOWN], ""),
        (Sliced(3, 8), [UP], "3 x 8 outside of a width, heads or skip of its structure"),
        (GONE, [UP], "gone outside"),
        (Padded(16, 8), [UP], "padded to 16 x 8 outside"),
        (LowRank(2), [UP, UP], ""),
        (Skip(), [UP, DOWN], ""),
    ],
)
def test_parts_that_do_not_fit_each_other(
    decision: Decision, shapes: list[tuple[int, int]], problem: str
) -> None:
    found = odd_parts(decision, shapes)
    assert re.search(problem, found) if problem else not found


def test_parts_go_to_the_weights_in_order() -> None:
    assert WIDTH.of(1) == Sliced(3, 8, LowRank(2))
    assert Skip().of(0) == Skip().of(5) == GONE
    assert HEADS.queries == 2
    assert (str(WIDTH), str(HEADS)) == (
        "width 3: dense, rank 2, dense",
        "heads 2/2: dense, pivot 3",
    )
    with pytest.raises(TypeError, match="several weights"):
        WIDTH.params(8, 8)


def test_positions_that_stay() -> None:
    units = np.array([0, 0, 1, 1, 2, 2, -1])
    heads = np.array([0, 1, 0, 1, 0, 1, -1])
    rows = Positions(units, heads)
    assert rows.kept((0, 2)).tolist() == [0, 1, 4, 5, 6]
    assert rows.kept((0, 2), ((1,), (0,))).tolist() == [1, 4, 6]
    shared = Positions(units, np.full(7, -1))
    assert shared.kept((1,), ((0,),)).tolist() == [2, 3, 6]


def test_a_label_says_the_parts_as_they_were_chosen() -> None:
    """A pivot that is put in order later is still the same candidate."""
    parts = (Sliced(3, 4, Pivot(1)), DENSE, Sliced(4, 3, PivotInOrder(2)))
    assert str(Width(parts, (0, 1, 2))) == "width 3: pivot 1, dense, pivot-in-order 2"
    assert Width(parts, (0, 1, 2)).label == "width 3: pivot 1, dense, pivot 2"
    assert Each((PivotInOrder(2), LowRank(5))).label == "pivot 2, rank 5"
