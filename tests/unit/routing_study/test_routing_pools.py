"""Pool: a weight in pieces whose energies are those of samples."""

import math
from dataclasses import replace

import pytest
import torch

from gacfx.compressors.methods import METHODS
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed
from gacfx.routing.pools import Pool
from tests.unit.routing_study.samples import SHAPES, TALL, sampled

METHODS_OF_PAIRS = ("svd", "asvd", "svd-llm", "gfwsvd")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS_OF_PAIRS)
def test_all_pieces_are_the_weight(shape: tuple[int, int], method: str) -> None:
    made = sampled(*shape)
    pool = made.pool(method)
    assert (pool.rank, pool.module, pool.wide) == (min(shape), "layer", shape[0] > shape[1])
    down_SN, up_SM = pool.pieces()
    for product in (pool.up_MS @ pool.down_SN, up_SM.T @ down_SN):
        assert float((product - made.weight_MN).norm() / made.weight_MN.norm()) < 1e-9
    torch.testing.assert_close(down_SN.norm(dim=1), up_SM.norm(dim=1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS_OF_PAIRS)
def test_energies_are_those_of_the_samples(shape: tuple[int, int], method: str) -> None:
    made = sampled(*shape)
    pool = made.pool(method)
    for inputs_TN, moments in zip(made.inputs_CTN, made.moments, strict=True):
        z_TS = inputs_TN @ pool.down_SN.T
        want_SS = z_TS.T @ z_TS / len(z_TS) / 2
        found_SS = pool.energy(moments)
        assert float((found_SS - want_SS).norm() / want_SS.norm()) < 1e-9
        assert torch.equal(found_SS, found_SS.T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS_OF_PAIRS)
def test_each_piece_is_scaled_by_the_gradients_along_it(
    shape: tuple[int, int], method: str
) -> None:
    made = sampled(*shape)
    along_TS = made.grads_CTM.flatten(0, 1) @ made.pool(method).up_MS
    torch.testing.assert_close(along_TS.square().mean(0), torch.ones(min(shape)).double())


@pytest.mark.parametrize("shape", SHAPES)
def test_for_gfwsvd_energies_of_what_is_dropped_add_up_to_the_model_of_the_loss(
    shape: tuple[int, int],
) -> None:
    made = sampled(*shape)
    pool = made.pool()
    inputs_TN, grads_TM = made.inputs_CTN.flatten(0, 1), made.grads_CTM.flatten(0, 1)
    input_NN = inputs_TN.T @ inputs_TN / len(inputs_TN)
    grad_MM = grads_TM.T @ grads_TM / len(grads_TM)
    energy_S = pool.energy(made.all_moments).diagonal()
    assert bool((energy_S[:-1] >= energy_S[1:] - 1e-9 * energy_S[0]).all())  # the best come first
    for _ in range(5):
        dropped = torch.randperm(pool.rank)[:4]
        lost_MN = pool.up_MS[:, dropped] @ pool.down_SN[dropped]
        want = (grad_MM @ lost_MN @ input_NN @ lost_MN.T).trace() / 2
        assert float(energy_S[dropped].sum() / want) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_of_directions_are_a_projection_of_the_weight(shape: tuple[int, int]) -> None:
    made = sampled(*shape)
    pool = made.pool()
    directions_SK = torch.linalg.qr(torch.randn(pool.rank, 3).double())[0]
    down_KN, up_KM = pool.pieces(directions_SK)
    want_MN = pool.up_MS @ directions_SK @ directions_SK.T @ pool.down_SN
    torch.testing.assert_close(up_KM.T @ down_KN, want_MN)
    torch.testing.assert_close(down_KN.norm(dim=1), up_KM.norm(dim=1))


def test_a_weight_without_components_is_refused_by_name() -> None:
    made = sampled(*TALL)
    odd: Moments = replace(made.all_moments, grad_square_mean=math.nan)
    with pytest.raises(DecompositionFailed, match="model.up: NaN or infinite gradient statistics"):
        Pool.of(made.weight_MN, odd, METHODS.find("gfwsvd"), "model.up")
    weight_MN = made.weight_MN.clone()
    weight_MN[0, 0] = torch.nan
    with pytest.raises(DecompositionFailed, match="model.up"):
        Pool.of(weight_MN, made.all_moments, METHODS.find("gfwsvd"), "model.up")


def test_a_piece_that_no_gradient_sees_keeps_its_place() -> None:
    made = sampled(10, 14)
    grads_CTM = made.grads_CTM.clone()
    grads_CTM[..., 5:] = 0
    made = replace(made, grads_CTM=grads_CTM)
    pool = made.pool("svd")
    assert bool(pool.up_MS.isfinite().all()) and bool(pool.down_SN.isfinite().all())
    torch.testing.assert_close(pool.up_MS @ pool.down_SN, made.weight_MN)
