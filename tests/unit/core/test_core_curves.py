"""Curves: parameters of a rank, and the last rank that saves any."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.curves import Curve

SIZES = st.integers(1, 5000)


@given(SIZES, SIZES)
def test_break_even_is_the_last_rank_with_fewer_parameters(rows: int, columns: int) -> None:
    curve = Curve("m", rows, columns, np.zeros(0), "two-sided")
    assert curve.params(curve.break_even) < rows * columns
    assert curve.params(curve.break_even + 1) >= rows * columns


def test_the_factors_of_llama_3() -> None:
    curve = Curve("up_proj", 14336, 4096, np.zeros(0), "two-sided")
    assert curve.break_even == 3185
    assert curve.params(8) == 8 * (14336 + 4096)
