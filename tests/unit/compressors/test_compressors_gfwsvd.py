"""Shrunk moments: between the metric of gfwsvd and those of methods that know one side or none."""

import pytest
import torch
from torch import Tensor

from gacfx.compressors.methods import METHODS
from gacfx.core.statistics import Moments
from gacfx.errors import PipelineError

SHAPES = [(12, 7), (7, 12), (9, 9)]


def weight_and_moments(rows: int, columns: int) -> tuple[Tensor, Moments]:
    torch.manual_seed(rows)
    weight_MN = torch.randn(rows, columns, dtype=torch.float64)
    inputs_TN = torch.randn(60, columns, dtype=torch.float64) * torch.arange(1, columns + 1)
    grads_TM = torch.randn(60, rows, dtype=torch.float64) * torch.arange(1, rows + 1)
    return weight_MN, Moments.from_samples(weight_MN, inputs_TN, grads_TM, both_sides=True)


def product(method: str, rows: int, columns: int, rank: int = 3) -> Tensor:
    weight_MN, moments = weight_and_moments(rows, columns)
    up_MR, down_RN = METHODS.find(method).decompose(weight_MN, moments, "w").pair(rank)
    return up_MR @ down_RN


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ("shrink-inputs=0", "gfwsvd"),
        ("shrink-gradients=1", "svd-llm"),
        ("shrink-inputs=1,shrink-gradients=1", "svd"),
    ],
)
def test_its_ends_are_other_methods(shape: tuple[int, int], settings: str, other: str) -> None:
    found, wanted = product(f"gfwsvd:{settings}", *shape), product(other, *shape)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_little_changes_a_little_and_curves_are_of_the_shrunk_moments(
    shape: tuple[int, int],
) -> None:
    weight_MN, moments = weight_and_moments(*shape)
    plain = METHODS.find("gfwsvd").decompose(weight_MN, moments, "w")
    shrunk = METHODS.find("gfwsvd:shrink-inputs=0.1,shrink-gradients=0.3").decompose(
        weight_MN, moments, "w"
    )
    one, other = plain.curve("two-sided").loss_nats, shrunk.curve("two-sided").loss_nats
    # All of the weight costs 1/2 tr(G W A W^T), with both moments as they were shrunk.
    a_NN = 0.9 * moments.input_moment + 0.1 * _mean_of(moments.input_moment)
    g_MM = 0.7 * moments.grad_moment + 0.3 * _mean_of(moments.grad_moment)
    whole = 0.5 * float(torch.trace(g_MM @ weight_MN @ a_NN @ weight_MN.T))
    assert other[0] == pytest.approx(whole, rel=1e-6)
    assert one[0] != pytest.approx(whole, rel=1e-3)


def _mean_of(moment: Tensor) -> Tensor:
    return torch.eye(len(moment), dtype=moment.dtype) * moment.diagonal().mean()


@pytest.mark.parametrize("settings", ["shrink-inputs=-0.1", "shrink-gradients=1.5"])
def test_a_share_is_between_nothing_and_all(settings: str) -> None:
    with pytest.raises(PipelineError, match="is not between 0 and 1"):
        METHODS.find(f"gfwsvd:{settings}")


def test_components_that_were_kept_give_the_same_curves() -> None:
    weight_MN, moments = weight_and_moments(12, 7)
    method = METHODS.find("gfwsvd:shrink-inputs=0.2")
    made = method.decompose(weight_MN, moments, "w")
    assert made.components is not None
    again = method.restored(weight_MN, moments, "w", made.components)
    assert (again.curve("two-sided").loss_nats == made.curve("two-sided").loss_nats).all()
