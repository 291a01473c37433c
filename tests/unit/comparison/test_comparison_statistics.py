"""Errors of losses: the ratio of two sums over documents, or over windows where those are few."""

from math import inf, sqrt

import pytest
import torch
from torch import Tensor

from gacfx.calibration.sliding import Slides, slide
from gacfx.calibration.text import Corpus
from gacfx.comparison.statistics import LEAST_DOCUMENTS, Units, units_of


def slides(*lengths: int) -> Slides:
    return slide(Corpus(tuple(torch.arange(n) for n in lengths)), 40, 20)


def test_documents_are_the_units_where_there_are_enough() -> None:
    many = units_of(slides(*[90] * LEAST_DOCUMENTS))
    assert (many.name, many.count) == ("documents", LEAST_DOCUMENTS)
    assert many.of[:5] == (0, 0, 0, 0, 1)
    few = units_of(slides(*[90] * (LEAST_DOCUMENTS - 1)))
    assert (few.name, few.count) == ("windows", 4 * (LEAST_DOCUMENTS - 1))


def test_documents_that_were_left_out_leave_no_hole() -> None:
    found = units_of(slides(90, 10, *[50] * LEAST_DOCUMENTS))
    assert found.count == LEAST_DOCUMENTS + 1
    assert set(found.of) == set(range(found.count))


def test_of_units_of_one_length_it_is_the_error_of_a_mean() -> None:
    found = [torch.tensor([1.0, 3.0]), torch.tensor([4.0, 6.0]), torch.tensor([2.0, 2.0])]
    mean = Units("windows", (0, 1, 2)).mean(found)
    assert mean.mean == 3.0
    # Means of units 2, 5, 2: deviation sqrt(3), over sqrt(3) units.
    assert mean.stderr == pytest.approx(1.0)


def test_windows_of_a_document_count_together() -> None:
    found = [torch.tensor([1.0, 3.0]), torch.tensor([4.0]), torch.tensor([2.0, 2.0, 5.0])]
    mean = Units("documents", (0, 0, 1)).mean(found)
    assert mean.mean == pytest.approx(17 / 6)
    residuals = (8 - 3 * 17 / 6, 9 - 3 * 17 / 6)
    assert mean.stderr == pytest.approx(sqrt(2 * sum(r * r for r in residuals)) / 6)


def test_the_error_is_what_draws_of_documents_show() -> None:
    random = torch.Generator().manual_seed(0)

    def draw() -> list[Tensor]:
        lengths = torch.randint(5, 60, (40,), generator=random).tolist()
        own = torch.randn(40, generator=random).tolist()
        return [
            3 + level + 0.5 * torch.randn(n, generator=random)
            for n, level in zip(lengths, own, strict=True)
        ]

    units = Units("documents", tuple(range(40)))
    means = [units.mean(draw()) for _ in range(400)]
    seen = torch.tensor([mean.mean for mean in means]).std()
    told = torch.tensor([mean.stderr or 0.0 for mean in means]).mean()
    assert float(told / seen) == pytest.approx(1.0, abs=0.12)


def test_of_one_unit_nothing_is_known_and_what_is_no_number_is_infinite() -> None:
    alone = Units("windows", (0,)).mean([torch.tensor([1.0, 2.0])])
    assert (alone.mean, alone.stderr) == (1.5, None)
    for bad in (torch.nan, torch.inf):
        found = Units("windows", (0, 1)).mean([torch.tensor([1.0]), torch.tensor([bad])])
        assert (found.mean, found.stderr) == (inf, None)
