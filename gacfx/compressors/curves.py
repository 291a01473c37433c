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


def tail_losses(
    weight_MN: Tensor,
    moments: Moments,
    inner_SS: Tensor,
    outer_SS: Tensor,
    output: OutputWeight,
) -> Tensor:
    """Loss [S + 1] at every rank 0 .. S, float64, at least 0 and not increasing.

    A method that is not optimal in the metric of the value model may lose less at a smaller rank; a
    rank then gets the largest loss of all ranks from it on, so the curve never promises too much.

    Args:
        weight_MN: any floating dtype.
        moments: of the same weight.
        inner_SS: see :attr:`gacfx.compressors.protocol.Decomposition.components`.
        outer_SS: the other half of it.
        output: what stands in the place of G.
    """
    coupling_SS = _output_gram(weight_MN, moments, inner_SS, output) * _input_gram(
        moments, outer_SS
    )
    coupling_SS = coupling_SS + DOUBT * _white(weight_MN, moments, inner_SS, outer_SS, output)
    # Row i adds its diagonal entry and, by symmetry, twice what stands right of it.
    rows_S = coupling_SS.diagonal() + 2 * coupling_SS.triu(1).sum(1)
    loss = 0.5 * torch.cat([rows_S, rows_S.new_zeros(1)]).flip(0).cumsum(0)
    return loss.cummax(0).values.flip(0)


def _white(
    weight_MN: Tensor,
    moments: Moments,
    inner_SS: Tensor,
    outer_SS: Tensor,
    output: OutputWeight,
) -> Tensor:
    """(up^T up) * (down down^T), scaled as if A and G were their mean diagonals."""
    # So small a share needs no more than float32, of numbers of its size.
    large, weight = float(inner_SS.abs().max()), weight_MN.to(inner_SS.device, torch.float32)
    inner, outer = (inner_SS / large).float(), (outer_SS * large).float()
    up_MS = weight @ inner if moments.wide else inner
    down_SN = outer if moments.wide else outer @ weight
    scale = float(moments.input_square_mean.mean())
    if output is not OutputWeight.IDENTITY:
        scale *= moments.grad_square_mean
    return scale * ((up_MS.T @ up_MS).double() * (down_SN @ down_SN.T).double())


def _input_gram(moments: Moments, outer_SS: Tensor) -> Tensor:
    """down A down^T."""
    middle_SS = moments.side_moment if moments.wide else moments.projected_moment
    return outer_SS @ middle_SS @ outer_SS.T


def _output_gram(
    weight_MN: Tensor, moments: Moments, inner_SS: Tensor, output: OutputWeight
) -> Tensor:
    """up^T G up, with G as the value model has it."""
    if output is OutputWeight.MOMENT:
        middle_SS = moments.projected_moment if moments.wide else moments.side_moment
        return inner_SS.T @ middle_SS @ inner_SS
    up_S = weight_MN.to(inner_SS) @ inner_SS if moments.wide else inner_SS
    scale = moments.grad_square_mean if output is OutputWeight.MEAN else 1.0
    return up_S.T @ up_S * scale
