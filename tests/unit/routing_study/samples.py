"""Inputs and gradients of one weight under several kinds of text, and the moments of each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.compressors.methods import METHODS
from gacfx.core.statistics import Moments
from gacfx.routing.pools import PieceMoments, Pool

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

    def seen(self, method: str = "gfwsvd") -> list[PieceMoments]:
        """What each kind does in the pieces."""
        pool = self.pool(method)
        return [pool.seen(each) for each in self.moments]

    def nats(self, kind: int, lost_MN: Tensor) -> float:
        """What a change of the weight costs, in the Kronecker-factored model of the loss."""
        inputs_TN, grads_TM = self.inputs_CTN[kind], self.grads_CTM[kind]
        input_NN = inputs_TN.T @ inputs_TN / len(inputs_TN)
        grad_MM = grads_TM.T @ grads_TM / len(grads_TM)
        return float((grad_MM @ lost_MN @ input_NN @ lost_MN.T).trace()) / 2


def piece_moments(count: int, size: int) -> list[PieceMoments]:
    """Random ones, whose first pieces do most."""

    def draw(decay: float) -> Tensor:
        root_SS = torch.randn(size, size).double() * torch.linspace(2, decay, size).double()
        return root_SS.T @ root_SS / size

    return [PieceMoments(draw(0.1), draw(1.0)) for _ in range(count)]


def sampled(rows: int, columns: int, kinds: int = 2) -> Sampled:
    """Correlated inputs and gradients, of another covariance in each kind."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    decay_N = torch.arange(1, columns + 1).double() ** -1.0
    inputs = [draw(TOKENS, columns) * decay_N @ draw(columns, columns) for _ in range(kinds)]
    grads = [draw(TOKENS, rows) @ draw(rows, rows) for _ in range(kinds)]
    return Sampled(draw(rows, columns), torch.stack(inputs), torch.stack(grads))
