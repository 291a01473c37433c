"""Inputs and gradients of one weight under several kinds of text, and the moments of each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.compressors.methods import METHODS
from gacfx.core.statistics import Moments
from gacfx.routing.pools import Pool

# T tokens, M outputs, N inputs, C kinds

SHAPES = [(10, 14), (14, 10), (9, 9)]
TALL, TOKENS = SHAPES[1], 400


@dataclass(frozen=True, eq=False)
class Sampled:
    """A weight, and what it saw."""

    weight_MN: Tensor
    inputs_CTN: Tensor
    grads_CTM: Tensor

    @property
    def moments(self) -> list[Moments]:
        """Of each kind."""
        pairs = zip(self.inputs_CTN, self.grads_CTM, strict=True)
        return [Moments.from_samples(self.weight_MN, *pair) for pair in pairs]

    @property
    def all_moments(self) -> Moments:
        """Of all kinds together."""
        return Moments.from_samples(
            self.weight_MN, self.inputs_CTN.flatten(0, 1), self.grads_CTM.flatten(0, 1)
        )

    def pool(self, method: str = "gfwsvd") -> Pool:
        """In the metric of all kinds together."""
        return Pool.of(self.weight_MN, self.all_moments, METHODS.find(method), "layer")

    def energies(self, method: str = "gfwsvd") -> Tensor:
        """E[z z^T] / 2 of each kind, [C, S, S]."""
        pool = self.pool(method)
        return torch.stack([pool.energy(each) for each in self.moments])


def sampled(rows: int, columns: int, kinds: int = 2) -> Sampled:
    """Correlated inputs of another covariance in each kind; gradients of one."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    decay_N = torch.arange(1, columns + 1).double() ** -1.0
    inputs = [draw(TOKENS, columns) * decay_N @ draw(columns, columns) for _ in range(kinds)]
    mixing_MM = draw(rows, rows)
    grads = [draw(TOKENS, rows) @ mixing_MM for _ in range(kinds)]
    return Sampled(draw(rows, columns), torch.stack(inputs), torch.stack(grads))
