"""The protocol: what a method has by default, which kinds it makes, curves of other makers."""

# M outputs, N inputs, S = min(M, N)

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.compressors.allocate import allocate
from gacfx.compressors.lowrank import WeightedSvd
from gacfx.compressors.methods import LOW_RANK
from gacfx.compressors.protocol import Compressor, Decomposition, Statistic
from gacfx.compressors.values import VALUES, Losses
from gacfx.core.decision import Decision, Stored, Work
from gacfx.core.kinds import KINDS, Kind
from gacfx.core.materialise import Factors
from gacfx.core.search import Search
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed, PipelineError, PlanError

DRAW = torch.Generator().manual_seed(0)
W_MN, X_TN, G_TM = (
    torch.randn(*shape, generator=DRAW, dtype=torch.float64) for shape in ((6, 4), (50, 4), (50, 6))
)
MOMENTS = Moments.from_samples(W_MN, X_TN, G_TM)


@dataclass(frozen=True, eq=False)
class Columns(Decomposition):
    """The first columns of a weight: pairs that no inner and outer describe."""

    method: Compressor
    weight_MN: Tensor
    moments: Moments
    module: str

    def factors(self, rank: int, dtype: torch.dtype | None = None) -> Factors:
        down_RN = torch.eye(self.weight_MN.shape[1], dtype=torch.float64)[:rank]
        return Factors.pair(down_RN.to(dtype), self.weight_MN[:, :rank].to(dtype))


@dataclass(frozen=True)
class First(Compressor):
    """Keeps the first columns."""

    name: str = "first"
    source: str = "a test"
    kinds: tuple[str, ...] = ("low-rank",)

    def decompose(self, weight_MN: Tensor, moments: Moments, module: str = "") -> Columns:
        return Columns(self, weight_MN, moments, module)


def test_a_method_has_what_it_does_not_say_itself() -> None:
    first, shapes = First(), {"a": (20, 30), "b": (4, 4)}
    assert first.needs == () and first.proxy == "magnitude"
    assert first.allocate(shapes, "0.5") == allocate(shapes, "0.5") == {"a": 6, "b": 1}


def test_a_method_without_its_work_is_none() -> None:
    with pytest.raises(TypeError, match="decompose"):
        Compressor()  # type: ignore[abstract]


def test_ours_need_what_their_metrics_are_made_of() -> None:
    assert {name: method.needs for name, method in LOW_RANK.items()} == {
        "svd": (),
        "asvd": (Statistic.INPUT_ABS_MEAN,),
        "svd-llm": (Statistic.INPUT_MOMENT,),
        "svd-llm-v2": (Statistic.INPUT_MOMENT,),
        "dobi-svd": (Statistic.INPUT_MOMENT,),
        "basis-sharing": (Statistic.WHOLE_INPUT_MOMENT,),
        "gfwsvd": (Statistic.INPUT_MOMENT, Statistic.GRAD_MOMENT),
    }
    assert LOW_RANK["gfwsvd"].minimises == "|G^1/2 D A^1/2|"


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
def test_a_method_decomposes_by_itself(method: Compressor) -> None:
    found = method.decompose(W_MN, MOMENTS, "up_proj")
    assert isinstance(found, WeightedSvd)
    assert (found.module, found.method) == ("up_proj", method)
    up_MR, down_RN = found.pair(4)
    torch.testing.assert_close(up_MR @ down_RN, W_MN)


# -- value models of a decomposition that somebody else makes --------------------------------------


def test_factors_that_are_not_nested_have_no_curve_but_their_own() -> None:
    found = First().decompose(W_MN, MOMENTS, "up_proj")
    assert found.pair(4)[0].equal(W_MN)
    for value in ("two-sided", "fisher", "relative"):
        with pytest.raises(DecompositionFailed, match="up_proj: the factors of 'first' are not"):
            found.curve(value)
    # Importance needs no factors.
    assert found.curve("paper").value_model == "paper:magnitude"


def test_a_curve_may_be_for_another_method_than_the_one_that_made_its_factors() -> None:
    found = replace(LOW_RANK["svd"].decompose(W_MN, MOMENTS), method=First())
    assert isinstance(found, Decomposition)
    wanted = LOW_RANK["svd"].decompose(W_MN, MOMENTS).curve("fisher")
    np.testing.assert_array_equal(found.curve("fisher").loss_nats, wanted.loss_nats)


@pytest.mark.parametrize(
    "losses", [np.zeros(4), np.zeros((5, 1)), np.arange(5.0), np.arange(5.0)[::-1] - 1]
)
def test_losses_that_are_no_curve_are_refused(losses: Losses) -> None:
    model = replace(VALUES["fisher"], name="odd", losses=lambda _: losses)
    with pytest.raises(PipelineError, match="value model 'odd', up_proj: losses must be one for e"):
        model.curve(First().decompose(W_MN, MOMENTS, "up_proj"))


def test_losses_that_are_not_finite_keep_the_weight_dense() -> None:
    model = replace(VALUES["fisher"], name="odd", losses=lambda _: np.full(5, np.nan))
    with pytest.raises(DecompositionFailed, match="the odd loss curve is not finite"):
        model.curve(First().decompose(W_MN, MOMENTS, "up_proj"))


# -- kinds of decisions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Width(Decision):
    """Some of the outputs: no product of low rank."""

    kind: ClassVar[str] = "test-width"
    width: int

    def problem(self, rows: int, columns: int) -> str:
        return ""

    def params(self, rows: int, columns: int) -> int:
        return self.width * columns

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        return ()

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        return {}

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        return (self.width,)


@dataclass(frozen=True)
class Tied(Width):
    """A product of low rank in a form of its own."""

    kind: ClassVar[str] = "test-tied"

    @property
    def rank(self) -> int | None:
        return self.width


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds are known."""
    for cls in (Width, Tied):
        monkeypatch.setitem(KINDS._known, cls.kind, Kind(cls))


@pytest.mark.usefixtures("outside")
def test_a_product_of_another_package_is_made_by_whoever_makes_pairs() -> None:
    kinds = ("dense", "low-rank", "pivot", "test-tied", "test-width")
    assert [k for k in kinds if LOW_RANK["svd"].makes(k)] == ["low-rank", "pivot", "test-tied"]
    assert [k for k in kinds if First().makes(k)] == ["low-rank", "test-tied"]
    assert [k for k in kinds if First(kinds=("test-width",)).makes(k)] == ["test-width"]
    with pytest.raises(PlanError, match="no kind of decision 'lost'"):
        First().makes("lost")


@pytest.mark.usefixtures("outside")
def test_what_a_method_cannot_make_is_refused_by_name() -> None:
    first, widths = First(), First("widths", kinds=("test-width",))
    assert first.offered(Search()) == ("low-rank",)
    assert LOW_RANK["svd"].offered(Search()) == ("low-rank", "pivot")
    assert first.offered(Search(form="test-tied")) == ("test-tied",)
    for method, form, message in (
        (first, "pivot", "'first' makes no 'pivot' decisions .form 'pivot'.; it makes low-rank$"),
        (first, "test-width", "'first' makes no 'test-width' decisions"),
        (widths, "auto", "'widths' makes no 'low-rank' decisions .form 'auto'.; it makes test-wi"),
    ):
        with pytest.raises(PipelineError, match=message):
            method.offered(Search(form=form))
