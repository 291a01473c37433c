"""Weights with samples of their inputs and output gradients, for the tests of pruning."""

# M outputs, N inputs, T tokens

from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.core.statistics import Moments


@dataclass(frozen=True)
class Made:
    """A weight and its samples, float64."""

    weight_MN: Tensor
    inputs_TN: Tensor
    grads_TM: Tensor

    @property
    def moments(self) -> Moments:
        """Of both sides."""
        return Moments.from_samples(self.weight_MN, self.inputs_TN, self.grads_TM, both_sides=True)


def made(rows: int, columns: int, *, tokens: int = 300, seed: int = 0) -> Made:
    """Correlated inputs and gradients with decaying spectra."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def correlated(width: int) -> Tensor:
        decay = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
        basis: Tensor = torch.linalg.qr(draw(width, width)).Q
        return draw(tokens, width) * decay @ basis

    return Made(draw(rows, columns), correlated(columns), correlated(rows))


def kept(size: int, count: int, seed: int = 0) -> Tensor:
    """``count`` positions of ``size``, rising."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:count].sort().values
