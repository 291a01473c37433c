"""Sizes of a capture with 2 sequences of 32 tokens, as multiples of what they grow with."""

import pytest

from gacfx.core.sites import Extent
from gacfx.graph.frame import Frame

TEXT, IMAGES = Frame(2, 32), Frame(2, 0)


@pytest.mark.parametrize(
    ("frame", "sizes", "window", "extent"),
    [
        (TEXT, (2, 32), 0, Extent(1, "token")),
        (TEXT, (64,), 0, Extent(1, "token")),
        (TEXT, (192,), 0, Extent(3, "token")),
        (TEXT, (2, 16), 0, Extent(16, "sequence")),
        (TEXT, (5,), 0, Extent(5)),
        (TEXT, (2, 35), 4, Extent(1, "token")),
        (TEXT, (6, 32), 4, Extent(3, "token")),
        (TEXT, (2, 36), 4, Extent(36, "sequence")),
        (TEXT, (2, 31), 4, Extent(31, "sequence")),
        (IMAGES, (2, 4, 4), 3, Extent(16, "sequence")),
        (IMAGES, (2, 32), 0, Extent(32, "sequence")),
    ],
)
def test_rows(frame: Frame, sizes: tuple[int, ...], window: int, extent: Extent) -> None:
    assert frame.rows(sizes, window) == extent


@pytest.mark.parametrize(
    ("frame", "sizes", "unit", "extent"),
    [
        (TEXT, (32,), "query", Extent(1, "query")),
        (TEXT, (3, 32), "key", Extent(3, "key")),
        (TEXT, (64,), "key", Extent(64)),
        (IMAGES, (16,), "query", Extent(16)),
    ],
)
def test_sizes_of_activations(
    frame: Frame, sizes: tuple[int, ...], unit: str, extent: Extent
) -> None:
    assert frame.of_activation(sizes, unit) == extent


def test_heads_of_a_batch_that_is_an_axis_of_its_own_or_one_with_them() -> None:
    assert TEXT.heads((2, 6, 32, 8)) == TEXT.heads((12, 32, 8)) == 6
    assert TEXT.heads((3, 32, 8)) == 3
