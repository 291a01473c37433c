"""Pool: a weight in pieces whose energies are those of samples."""

import math
from dataclasses import replace

import pytest
import torch

from gacfx.compressors.methods import METHODS
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed
from gacfx.routing.pools import Directions, Pool
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
def test_moments_in_the_pieces_are_those_of_the_samples(
    shape: tuple[int, int], method: str
) -> None:
    made = sampled(*shape)
    pool = made.pool(method)
    for kind, found in enumerate(made.seen(method)):
        z_TS = made.inputs_CTN[kind] @ pool.down_SN.T
        h_TS = made.grads_CTM[kind] @ pool.up_MS
        wanted = (z_TS.T @ z_TS / len(z_TS) / 2, h_TS.T @ h_TS / len(h_TS))
        for found_SS, want_SS in zip((found.energy_SS, found.grads_SS), wanted, strict=True):
            assert float((found_SS - want_SS).norm() / want_SS.norm()) < 1e-9
            assert torch.equal(found_SS, found_SS.T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS_OF_PAIRS)
def test_what_the_first_pieces_lose_is_the_model_of_the_loss(
    shape: tuple[int, int], method: str
) -> None:
    made = sampled(*shape)
    pool = made.pool(method)
    for kind, found in enumerate(made.seen(method)):
        nats = found.nats()
        assert nats.shape == (pool.rank + 1,) and float(nats[-1]) == 0
        for count in range(pool.rank + 1):
            lost_MN = pool.up_MS[:, count:] @ pool.down_SN[count:]
            want = made.nats(kind, lost_MN)
            assert float(nats[count]) == pytest.approx(want, rel=1e-6, abs=1e-9 * float(nats[0]))


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
    seen = pool.seen(made.all_moments)
    torch.testing.assert_close(seen.grads_SS, torch.eye(pool.rank).double())
    energy_S = seen.energy_SS.diagonal()
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
    mixed_SS = torch.randn(pool.rank, pool.rank).double()
    directions = Directions(torch.linalg.inv(mixed_SS).T, mixed_SS).first(3)
    down_KN, up_KM = pool.pieces(directions)
    want_MN = pool.up_MS @ directions.write_SK @ directions.read_SK.T @ pool.down_SN
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
