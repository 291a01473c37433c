"""Symmetric matrices in half the room."""

import pytest
import torch

from gacfx.core.packing import packed, unpacked


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 17, 64])
def test_a_symmetric_matrix_comes_back_bit_for_bit(size: int) -> None:
    made = torch.randn(size, size, dtype=torch.float64)
    made = made + made.T
    small = packed(made)
    assert small.numel() == size * (size + 1) // 2
    assert torch.equal(unpacked(small), made)


def test_four_rows_lie_as_the_format_says() -> None:
    rows = [[1.0, 2, 7, 9], [2, 3, 8, 10], [7, 8, 4, 5], [9, 10, 5, 6]]
    told = [[4.0, 5], [1, 6], [2, 3], [7, 8], [9, 10]]
    assert packed(torch.tensor(rows)).tolist() == told


def test_only_the_lower_triangle_counts() -> None:
    made = torch.randn(6, 6)
    low = made.tril() + made.tril(-1).T
    assert torch.equal(unpacked(packed(made)), low)
