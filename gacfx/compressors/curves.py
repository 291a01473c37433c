"""Loss curves: what dropping the last components of a decomposition costs, for every rank.

In the Kronecker-factored second-order model an error D of the weight costs 1/2 tr(G D A D^T) nats
per token. When W = up down drops its components from r on, D is the sum of up_i down_i over i >= r,
so with

    S = (up^T G up) * (down A down^T)        elementwise, [S, S]

the loss at rank r is half the sum of the block S[r:, r:]. Both matrices come from moments of the
short side (M <= N: down A down^T = outer (W A W^T) outer^T; M > N: up^T G up = inner^T (W^T G W)
inner), for the factors of any method, not only of the one that is optimal in this metric.
"""

# M outputs, N inputs, S = min(M, N)

from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from gacfx.core.statistics import Moments


class OutputWeight(StrEnum):
    """What the value models put in the place of G."""

    MOMENT = "moment"
    """G itself."""
    MEAN = "mean"
    """Its mean diagonal, the mean squared output gradient."""
    IDENTITY = "identity"
    """Nothing: the error of the outputs counts, whatever the loss makes of it."""


DOUBT = 1e-12
"""Share of a white metric that every curve has besides its own. Directions that calibration never
saw would otherwise be worth nothing, and a factorization that drops them as good as the weight."""


def terms_of(weight_MN: Tensor, inner_SS: Tensor, outer_SS: Tensor) -> tuple[Tensor, Tensor]:
    """(u [M, S], v [S, N]) in float64: the weight as a sum of u_i v_i^T, the best term first.

    Args:
        weight_MN: any floating dtype.
        inner_SS: see :attr:`gacfx.compressors.protocol.Decomposition.components`.
        outer_SS: the other half of it.
    """
    weight_MN = weight_MN.to(inner_SS)
    if len(weight_MN) > weight_MN.shape[1]:
        return weight_MN @ inner_SS, outer_SS
    return inner_SS, outer_SS @ weight_MN


class Tails:
    """The curves of one decomposition; what they have in common is computed once."""

    def __init__(
        self, weight_MN: Tensor, moments: Moments, inner_SS: Tensor, outer_SS: Tensor
    ) -> None:
        """Nothing is computed yet.

        Args:
            weight_MN: any floating dtype.
            moments: of the same weight.
            inner_SS: see :attr:`gacfx.compressors.protocol.Decomposition.components`.
            outer_SS: the other half of it.
        """
        self.weight_MN, self.moments = weight_MN, moments
        self.inner_SS, self.outer_SS = inner_SS, outer_SS

    def losses(self, output: OutputWeight) -> Tensor:
        """Loss [S + 1] at every rank 0 .. S, float64, at least 0 and not increasing.

        A method that is not optimal in the metric of the value model may lose less at a smaller
        rank; a rank then gets the largest loss of all ranks from it on, so the curve never promises
        too much.

        Args:
            output: what stands in the place of G.
        """
        if output is OutputWeight.MEAN:
            return self._plain * self.moments.grad_square_mean
        return self._two_sided if output is OutputWeight.MOMENT else self._plain

    @cached_property
    def _two_sided(self) -> Tensor:
        return self._tail(self._output_gram(), self.moments.grad_square_mean)

    @cached_property
    def _plain(self) -> Tensor:
        """With the identity in the place of G."""
        up_S = self.inner_SS
        if self.moments.wide:
            up_S = self.weight_MN.to(up_S) @ up_S
        return self._tail(up_S.T @ up_S, 1.0)

    def _tail(self, output_SS: Tensor, mean: float) -> Tensor:
        """The curve of one metric of the outputs.

        Args:
            output_SS: up^T G up; changed.
            mean: diagonal of G, on average.
        """
        output_SS *= self._input_gram
        output_SS.add_(self._white, alpha=DOUBT * mean)
        return tail_sums(output_SS).flip(0).cummax(0).values.flip(0)

    @cached_property
    def _white(self) -> Tensor:
        """(up^T up) * (down down^T), scaled as if A were its mean diagonal; float32."""
        # So small a share needs no more than float32, of numbers of its size.
        large = float(self.inner_SS.abs().max())
        weight_MN = self.weight_MN.to(self.inner_SS.device, torch.float32)
        up_MS, down_SN = (self.inner_SS / large).float(), (self.outer_SS * large).float()
        if self.moments.wide:
            up_MS = weight_MN @ up_MS
        else:
            down_SN = down_SN @ weight_MN
        white_SS = up_MS.T @ up_MS
        white_SS *= down_SN @ down_SN.T
        return white_SS.mul_(float(self.moments.input_square_mean.mean()))

    @cached_property
    def _input_gram(self) -> Tensor:
        """down A down^T."""
        moments, outer_SS = self.moments, self.outer_SS
        middle_SS = moments.side_moment if moments.wide else moments.projected_moment
        return outer_SS @ middle_SS @ outer_SS.T

    def _output_gram(self) -> Tensor:
        """up^T G up."""
        moments, inner_SS = self.moments, self.inner_SS
        middle_SS = moments.projected_moment if moments.wide else moments.side_moment
        return inner_SS.T @ middle_SS @ inner_SS


def tail_sums(both_SS: Tensor) -> Tensor:
    """[S + 1]: half the sum of the block [r:, r:] of a symmetric matrix, for r = 0 .. S."""
    # Row i adds its diagonal entry and, by symmetry, twice what stands right of it.
    rows_S = both_SS.diagonal() + 2 * both_SS.triu(1).sum(1)
    return 0.5 * torch.cat([rows_S, rows_S.new_zeros(1)]).flip(0).cumsum(0).flip(0)
