"""How the shape of a weight follows from the size of its structure."""

import numpy as np
import pytest

from gacfx.core.structure_curves import Span
from gacfx.core.structures import Positions
from gacfx.errors import PlanError


def along(units: list[int], heads: list[int] | None = None) -> Positions:
    return Positions(np.array(units), np.array(heads or [-1] * len(units)))


def test_positions_of_no_unit_always_count() -> None:
    """Two that are fixed, two units of one shared position and two heads of one each."""
    units = [-1, 0, 0, 0, 1, 1, 1, -1]
    span = Span.of(along(units, [-1, -1, 0, 1, -1, 0, 1, -1]), 8)
    assert span == Span(fixed=2, unit=1, head=1)
    assert [span.at(size) for size in ((2, 2), (1, 2), (2, 1), (1, 1))] == [8, 5, 6, 4]
    assert Span.of(None, 7).at((1, 1)) == 7


@pytest.mark.parametrize(
    ("units", "heads"),
    [
        ([0, 0, 1], None),
        ([0, 0, 1, 2, 2, 2], None),  # as long as three units of two each
        ([0, 0, 0, 1, 1], [0, 0, 1, 0, 1]),
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1, 1, 1]),  # as long as heads of two each
    ],
)
def test_units_of_different_length_are_refused(units: list[int], heads: list[int] | None) -> None:
    with pytest.raises(PlanError, match="equally many positions each"):
        Span.of(along(units, heads), len(units))
