"""KL of two predictions: the formula, and tokens that one or both hold impossible."""

import math

import torch

from gacfx.calibration.divergence import divergences


def test_it_is_the_mean_of_the_logarithm_of_the_ratio() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 3, 4, 7, generator=draw, dtype=torch.float64).log_softmax(-1)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=one), torch.distributions.Categorical(logits=other)
    )
    torch.testing.assert_close(divergences(one, other), wanted)
    assert divergences(one, one).abs().max() < 1e-12


def test_impossible_tokens() -> None:
    masked = torch.tensor([1.0, 2.0, -math.inf]).log_softmax(-1)
    whole = torch.tensor([1.0, 2.0, 3.0]).log_softmax(-1)
    assert divergences(masked, masked) == 0
    assert divergences(masked, whole) > 0 and torch.isfinite(divergences(masked, whole))
    assert divergences(whole, masked) == math.inf
    found = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    divergences(masked, found.log_softmax(-1)).backward()
    assert found.grad is not None and torch.isfinite(found.grad).all()
