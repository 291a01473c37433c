"""Curves: the loss under a decision, and the last rank of a pair that saves any parameters."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, LowRank, Pivot

SIZES = st.integers(1, 5000)


@given(SIZES, SIZES)
def test_break_even_is_the_last_rank_with_fewer_parameters(rows: int, columns: int) -> None:
    curve = Curve("m", rows, columns, np.zeros(0), "two-sided")
    assert LowRank(curve.break_even).params(rows, columns) < rows * columns
    assert LowRank(curve.break_even + 1).params(rows, columns) >= rows * columns


def test_the_factors_of_llama_3() -> None:
    curve = Curve("up_proj", 14336, 4096, np.zeros(0), "two-sided")
    assert curve.break_even == 3185
    assert LowRank(8).params(14336, 4096) == 8 * (14336 + 4096)


def test_a_product_has_one_loss_in_whatever_form() -> None:
    curve = Curve("m", 3, 4, np.array([8.0, 4.0, 2.0, 0.0]), "two-sided")
    assert curve.loss(LowRank(2)) == curve.loss(Pivot(2)) == 2.0
    assert curve.loss(DENSE) == 0.0
