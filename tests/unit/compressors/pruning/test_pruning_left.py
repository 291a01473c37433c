"""What is left of a weight equals, moments and all, what samples of the smaller weight give."""

# M outputs, N inputs, K those that stay

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.compressors.lowrank import decompose
from gacfx.compressors.methods import LOW_RANK, Method
from gacfx.compressors.pruning.closing import Closing
from gacfx.compressors.pruning.left import narrowed, shortened, sliced_only
from gacfx.core.statistics import Moments
from gacfx.errors import CalibrationError, DecompositionFailed
from tests.unit.compressors.pruning.made_weights import Made, kept, made

SHAPES = [(9, 14), (14, 9), (11, 11), (14, 13), (13, 14)]
"""The last ones turn from wide to narrow, or back, when something goes."""


def same(found: Moments, wanted: Moments) -> None:
    for field in fields(Moments):
        mine, theirs = getattr(found, field.name), getattr(wanted, field.name)
        if field.name == "grad_output_mean":  # of products of two sides, which moments do not know
            assert mine is None
            continue
        if isinstance(theirs, Tensor):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        else:
            assert mine == pytest.approx(theirs, rel=1e-12), field.name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 5, 8])
def test_shortened(shape: tuple[int, int], count: int) -> None:
    one = made(*shape)
    kept_K = kept(shape[0], count)
    weight_KN, found = shortened(one.weight_MN, one.moments, kept_K)
    assert torch.equal(weight_KN, one.weight_MN[kept_K])
    same(found, Made(weight_KN, one.inputs_TN, one.grads_TM[:, kept_K]).moments)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 5, 8])
def test_narrowed(shape: tuple[int, int], count: int) -> None:
    one = made(*shape)
    kept_K = kept(shape[1], count)
    weight_MK, found = narrowed(one.weight_MN, one.moments, kept_K)
    wanted = torch.linalg.lstsq(one.inputs_TN[:, kept_K], one.inputs_TN @ one.weight_MN.T).solution
    torch.testing.assert_close(weight_MK, wanted.T, rtol=1e-6, atol=1e-6)
    same(found, Made(weight_MK, one.inputs_TN[:, kept_K], one.grads_TM).moments)
    weight_MK, found = sliced_only(one.weight_MN, one.moments, kept_K)
    assert torch.equal(weight_MK, one.weight_MN[:, kept_K])
    same(found, Made(weight_MK, one.inputs_TN[:, kept_K], one.grads_TM).moments)


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rank_curves_of_what_is_left(shape: tuple[int, int], method: Method) -> None:
    one = made(*shape)
    rows_K, columns_K = kept(shape[0], 6), kept(shape[1], 7, seed=1)
    first = shortened(one.weight_MN, one.moments, rows_K)
    weight, moments = narrowed(*first, columns_K)
    sampled = Made(weight, one.inputs_TN[:, columns_K], one.grads_TM[:, rows_K])
    for value_model in ("two-sided", "fisher"):
        curves = [
            decompose(weight, m, method).curve(value_model).loss_nats
            for m in (moments, sampled.moments)
        ]
        np.testing.assert_allclose(curves[0], curves[1], rtol=1e-6, atol=1e-12)


def test_everything_stays() -> None:
    one = made(6, 9)
    same(shortened(one.weight_MN, one.moments, range(6))[1], one.moments)
    weight_MN, moments = narrowed(one.weight_MN, one.moments, range(9))
    assert torch.equal(weight_MN, one.weight_MN)
    same(moments, one.moments)


def test_dtypes_and_arrays() -> None:
    one = made(6, 9)
    half = one.weight_MN.bfloat16()
    assert shortened(half, one.moments, np.array([1, 3]))[0].dtype == torch.bfloat16
    found = narrowed(half, one.moments, np.array([1, 3]))[0]
    torch.testing.assert_close(found, narrowed(half.double(), one.moments, [1, 3])[0])


def test_moments_of_one_side_do_where_they_suffice() -> None:
    narrow, wide = made(6, 9), made(9, 6)
    short = replace(narrow.moments, long_moment=None)
    found = shortened(narrow.weight_MN, short, [0, 4])[1]
    same(
        replace(found, long_moment=narrow.moments.long_moment),
        shortened(narrow.weight_MN, narrow.moments, [0, 4])[1],
    )
    with pytest.raises(CalibrationError, match=r"inputs of a weight \[6, 9\] was not gathered"):
        narrowed(narrow.weight_MN, short, [0, 4])
    with pytest.raises(
        CalibrationError, match=r"output gradients of a weight \[9, 6\].*both_sides"
    ):
        shortened(wide.weight_MN, replace(wide.moments, long_moment=None), [0, 4])
    with pytest.raises(ValueError, match="at least one"):
        shortened(wide.weight_MN, wide.moments, [])


def test_dead_and_duplicate_inputs() -> None:
    one = made(6, 9)
    inputs_TN = one.inputs_TN.clone()
    inputs_TN[:, 2], inputs_TN[:, 7] = 0, inputs_TN[:, 3]
    one = Made(one.weight_MN, inputs_TN, one.grads_TM)
    without_dead, _ = narrowed(one.weight_MN, one.moments, [0, 1, 3, 4, 5, 6, 7, 8])
    torch.testing.assert_close(without_dead, one.weight_MN[:, [0, 1, 3, 4, 5, 6, 7, 8]])
    without_copy, _ = narrowed(one.weight_MN, one.moments, range(7))
    want = one.weight_MN[:, 3] + one.weight_MN[:, 7]
    got = narrowed(one.weight_MN, one.moments, [0, 1, 2, 3, 4, 5, 6, 8])[0][:, 3]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(without_copy).all()
    dead_only, _ = narrowed(one.weight_MN, one.moments, [2])
    torch.testing.assert_close(dead_only, one.weight_MN[:, [2]])


def test_ill_conditioned_inputs() -> None:
    one = made(6, 40, tokens=12)
    weight_MK, moments = narrowed(one.weight_MN, one.moments, kept(40, 30))
    assert moments.problem() == ""
    error_TM = one.inputs_TN @ one.weight_MN.T - one.inputs_TN[:, kept(40, 30)] @ weight_MK.T
    assert float(error_TM.norm() / (one.inputs_TN @ one.weight_MN.T).norm()) < 1e-3


def test_rounded_moments_get_a_larger_ridge() -> None:
    one = made(6, 40, tokens=12)
    moments = one.moments
    assert moments.long_moment is not None
    noise = torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rough = moments.long_moment + 1e-6 * moments.long_moment.diagonal().mean() * (noise + noise.T)
    assert float(torch.linalg.eigvalsh(rough)[0]) < -1e-7 * float(rough.diagonal().mean())
    moments = replace(moments, long_moment=rough)
    assert torch.isfinite(narrowed(one.weight_MN, moments, kept(40, 30))[0]).all()
    assert Closing.of(one.weight_MN, moments).loss_of([]) > 0


def test_what_is_not_finite_is_a_reason() -> None:
    one = made(6, 9)
    bad = one.moments
    assert bad.long_moment is not None
    bad.long_moment[1, 2] = torch.nan
    for kept_K in ([1, 2, 3], [1, 4], [2, 5]):
        with pytest.raises(DecompositionFailed, match=r"a\.b: "):
            narrowed(one.weight_MN, bad, kept_K, module="a.b")
    assert bad.problem() == "NaN or infinite calibration statistics"
    with pytest.raises(DecompositionFailed, match="not finite"):
        narrowed(one.weight_MN * torch.inf, made(6, 9).moments, [1, 2])
    nothing = Made(one.weight_MN, torch.zeros_like(one.inputs_TN), one.grads_TM).moments
    with pytest.raises(DecompositionFailed, match="no calibration token"):
        narrowed(one.weight_MN, nothing, [1, 2])
    negative = replace(one.moments, long_moment=-one.inputs_TN.T @ one.inputs_TN)
    with pytest.raises(DecompositionFailed, match="not positive"):
        narrowed(one.weight_MN, negative, [1, 2])
