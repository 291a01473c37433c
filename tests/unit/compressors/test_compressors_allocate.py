"""The methods' own ranks."""

import pytest

from gacfx.compressors.allocate import allocate, upstream_rank, wanted_rank
from gacfx.errors import PlanError


@pytest.mark.parametrize(
    ("shape", "ratio", "rank"),
    [
        # Ranks of SVD-LLM on Llama-3-8B at 20 % and 30 % (reference, section 6).
        ((4096, 4096), 0.2, 1638),
        ((1024, 4096), 0.2, 655),
        ((14336, 4096), 0.2, 2548),
        ((4096, 4096), 0.3, 1433),
        ((1024, 4096), 0.3, 573),
        ((4096, 14336), 0.3, 2230),
        # 0.3 x 20 x 20 / 40 is exactly 3; 1 - 0.7 in floats is below 0.3.
        ((20, 20), 0.7, 3),
        ((20, 20), "0.7", 3),
        ((4, 4), 0.9, 1),
        ((64, 64), 0, None),
        ((1, 9), 0.5, None),
        ((2, 2), 0.01, None),
    ],
)
def test_uniform_rank(shape: tuple[int, int], ratio: float | str, rank: int | None) -> None:
    assert upstream_rank(*shape, ratio) == rank
    assert allocate({"a": shape, "b": (64, 64)}, ratio)["a"] == rank


def test_wanted_rank_is_not_rounded() -> None:
    assert wanted_rank(4096, 4096, 0.2) == 1638.4
    assert wanted_rank(20, 20, 0.7) == 3.0


def test_no_allocation_costs_more_than_its_share() -> None:
    for rows in range(2, 60, 7):
        for columns in range(2, 60, 5):
            for percent in range(0, 100, 9):
                rank = upstream_rank(rows, columns, percent / 100)
                if rank is not None and rank > 1:
                    kept = rank * (rows + columns) * 100
                    assert kept <= rows * columns * (100 - percent)


def test_a_ratio_is_a_share() -> None:
    for ratio in (-0.1, 1.1, "2"):
        with pytest.raises(PlanError, match="not a share"):
            wanted_rank(4, 4, ratio)
