"""Loss curves against the brute force 1/2 tr(G D A D^T)."""

# M outputs, N inputs, T tokens

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.compressors.lowrank import decompose
from gacfx.compressors.methods import LOW_RANK, Method
from gacfx.compressors.values import TRIED, VALUES
from gacfx.core.statistics import Moments
from gacfx.errors import PipelineError

SHAPES = [(9, 14), (14, 9), (11, 11), (1, 6)]


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    decay = torch.arange(1, shape[1] + 1, dtype=torch.float64) ** -0.5
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * decay


BY_MOMENTS = [name for name in TRIED if not VALUES[name].on_text]


def brute_force(weight_MN: Tensor, moments: Moments, method: Method, grad: Tensor, x: Tensor):  # type: ignore[no-untyped-def]
    """1/2 tr(G D A D^T) at every rank, from the dense errors D and the moments of both sides."""
    found = decompose(weight_MN, moments, method)
    losses = []
    for rank in range(min(weight_MN.shape) + 1):
        error = weight_MN.clone()
        if rank:
            factors = found.factors(rank)
            error -= factors.tensors["up"] @ factors.tensors["down"]
        losses.append(0.5 * float(torch.trace(grad @ error @ x @ error.T)))
    return np.array(losses)


@pytest.mark.parametrize("value_model", BY_MOMENTS)
@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tokens", [200, 6])
def test_curve_equals_brute_force(
    shape: tuple[int, int], method: Method, value_model: str, tokens: int
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    weight_MN = draw(generator, *shape)
    x_TN, g_TM = draw(generator, tokens, shape[1]), draw(generator, tokens, shape[0])
    moments = Moments.from_samples(weight_MN, x_TN, g_TM)
    input_NN, grad_MM = x_TN.T @ x_TN / tokens, g_TM.T @ g_TM / tokens
    if value_model != "two-sided":
        scale = moments.grad_square_mean if value_model == "fisher" else 1.0
        grad_MM = torch.eye(shape[0], dtype=torch.float64) * scale
    wanted = brute_force(weight_MN, moments, method, grad_MM, input_NN)
    wanted = np.maximum.accumulate(wanted[::-1])[::-1]
    if value_model == "relative":
        wanted = wanted / wanted[0]
    curve = decompose(weight_MN, moments, method, module="a").curve(value_model)
    # Eigenvalues carry the rounding of the whole spectrum, and every curve has a trace of a
    # white metric besides its own, so the tolerance is of the largest loss.
    np.testing.assert_allclose(curve.loss_nats, wanted, rtol=1e-6, atol=1e-6 * wanted[0])
    assert (curve.module, curve.rows, curve.columns) == ("a", *shape)
    assert curve.value_model == value_model
    assert curve.loss_nats.shape == (min(shape) + 1,)
    assert curve.loss_nats[-1] == 0
    assert (np.diff(curve.loss_nats) <= 0).all()


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize("shape", [(9, 14), (14, 9)], ids=str)
def test_directions_that_calibration_never_saw_are_worth_something(
    shape: tuple[int, int], method: Method
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_MN = draw(generator, *shape)
    x_TN, g_TM = draw(generator, 3, shape[1]), draw(generator, 3, shape[0])
    moments = Moments.from_samples(weight_MN, x_TN, g_TM)
    for value_model in BY_MOMENTS:
        curve = decompose(weight_MN, moments, method).curve(value_model).loss_nats
        assert (curve[:-1] > 0).all()
        assert curve[-1] == 0


def test_a_rank_never_promises_less_than_a_larger_one_loses() -> None:
    # Two components that nearly cancel in the outputs that matter: dropping both is cheaper.
    weight_MN = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.9]], dtype=torch.float64)
    x_TN = torch.tensor([[1.0, -3.0, 0.0], [1.0, -3.0, 0.0]], dtype=torch.float64)
    g_TM = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    moments = Moments.from_samples(weight_MN, x_TN, g_TM)
    grad_MM, input_NN = g_TM.T @ g_TM / 2, x_TN.T @ x_TN / 2
    raw = brute_force(weight_MN, moments, LOW_RANK["svd"], grad_MM, input_NN)
    assert raw[1] > raw[0] + 1
    curve = decompose(weight_MN, moments, LOW_RANK["svd"]).curve("two-sided").loss_nats
    np.testing.assert_allclose(curve, [raw[1], raw[1], 0.0], rtol=1e-7)


def test_unknown_value_models_are_refused() -> None:
    weight_MN = torch.eye(3, dtype=torch.float64)
    moments = Moments.from_samples(weight_MN, weight_MN, weight_MN)
    with pytest.raises(PipelineError, match="no value model 'raw'; known: auto, two-sided"):
        decompose(weight_MN, moments, LOW_RANK["svd"]).curve("raw")
