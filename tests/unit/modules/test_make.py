"""make_factors and carrier_of: the table of kinds decides, and what it names is checked."""

import sys
from types import ModuleType

import pytest
import torch

from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.kinds import KINDS, Kind
from gacfx.errors import DecompositionFailed, PlanError
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.make import carrier_names, carrier_of, make_factors
from gacfx.modules.pivot import PivotLinear
from tests.svd import Svd


def test_every_kind_has_its_layers() -> None:
    assert carrier_of(LowRank(3)) is LowRankLinear
    assert carrier_of(Pivot(3)) is PivotLinear
    assert {"LowRankLinear", "PivotLinear"} <= carrier_names()


def test_nothing_replaces_a_dense_weight() -> None:
    with pytest.raises(PlanError, match="^dense: nothing replaces such a weight$"):
        carrier_of(DENSE)


@pytest.mark.parametrize(
    ("carrier", "message"),
    [
        ("no_such_module:Name", "cannot be imported: No module named 'no_such_module'"),
        ("toy_home:Missing", "cannot be imported: module 'toy_home' has no attribute 'Missing'"),
        ("toy_home:NUMBER", "toy_home:NUMBER is no gacfx.modules.carrier.Carrier"),
        ("torch.nn:Linear", "torch.nn:Linear is no gacfx.modules.carrier.Carrier"),
        (":Name", "cannot be imported"),
    ],
)
def test_layers_that_cannot_be_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, carrier: str, message: str
) -> None:
    home = ModuleType("toy_home")
    vars(home)["NUMBER"] = 3
    monkeypatch.setitem(sys.modules, "toy_home", home)
    monkeypatch.setitem(KINDS._known, "pivot", Kind(Pivot, carrier))
    with pytest.raises(PlanError, match=f"^pivot: .*{message}") as caught:
        carrier_of(Pivot(3))
    assert "\n" not in str(caught.value)


def test_factors_are_cast_and_the_order_is_not() -> None:
    source = Svd.of(torch.randn(12, 20))
    made = make_factors(source, Pivot(5), 12, 20, torch.bfloat16)
    assert [str(t.dtype) for t in made.tensors.values()] == [
        "torch.bfloat16",
        "torch.bfloat16",
        "torch.int32",
    ]
    assert made.rank == 5 and made.finite


def test_overflow_is_no_factor() -> None:
    source = Svd.of(torch.randn(12, 20).double() * 1e12)
    with pytest.raises(DecompositionFailed, match=r"factors of rank 5 overflow torch\.float16"):
        make_factors(source, LowRank(5), 12, 20, torch.float16)


def test_a_weight_of_another_shape_is_refused() -> None:
    with pytest.raises(PlanError, match=r"factors of rank 5: down is \(5, 20\), and \(5, 21\)"):
        make_factors(Svd.of(torch.randn(12, 20)), LowRank(5), 12, 21, torch.float32)
    with pytest.raises(PlanError, match="a weight of 4 x 20: rank 5 is outside 1 .. 4"):
        make_factors(Svd.of(torch.randn(12, 20)), LowRank(5), 4, 20, torch.float32)
