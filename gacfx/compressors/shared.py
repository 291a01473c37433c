"""One basis for several weights: stacked weights + moments of all -> factors, and what they cost.

Weights W_l [M, N] of n layers stand one above the other, and what errors are weighed by is the sum
of the moments of their inputs, A = A_1 + ... + A_n. Then one decomposition
(:mod:`gacfx.compressors.lowrank`) gives

    [W_1; ...; W_n] ~ [up_1; ...; up_n] down        of least sum_l tr(D_l A D_l^T) at every rank

What an error costs is counted layer by layer, with the inputs and gradients of each: the sum over l
of 1/2 tr(G_l D_l A_l D_l^T) nats per token. Source: Basis Sharing (arXiv 2410.03765), which
minimises the former; the latter is ours.
"""

# M outputs and N inputs of each weight, L = n M rows of all, S = min(L, N), R rank

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gacfx.compressors.curves import DOUBT, OutputWeight, tail_sums
from gacfx.compressors.lowrank import WeightedSvd, decompose
from gacfx.compressors.metrics import Method
from gacfx.core.materialise import FactorSet
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.statistics import Moments
from gacfx.errors import CalibrationError, DecompositionFailed
from gacfx.modules.low_rank import balanced
from gacfx.modules.make import make_factors

Losses = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SharedSvd:
    """Weights of one shape, cut into components that share what reads the inputs."""

    name: str
    """Of the group."""
    modules: tuple[str, ...]
    weights: tuple[Tensor, ...]
    """[M, N] each, any floating dtype."""
    moments: tuple[Moments, ...]
    stacked: WeightedSvd
    """Of all weights, one above the other."""

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """(up [L, R], down [R, N]) in float64; both factors of a component have the same norm."""
        return balanced(*self.stacked.pair(rank))

    def losses(self, output: OutputWeight, *, shares: bool = False) -> Losses:
        """[S + 1] loss of all weights together at every rank, at least 0 and not increasing.

        Args:
            output: what stands in the place of each G.
            shares: of each weight the share of its own loss at rank 0, so that as much is added up
                as of weights that share nothing.
        """
        kind = OutputWeight.MOMENT if output is OutputWeight.MOMENT else OutputWeight.IDENTITY
        total = np.zeros(1)
        for known, tails in zip(self.moments, self._tails[kind], strict=True):
            own = tails * (known.grad_square_mean if output is OutputWeight.MEAN else 1.0)
            total = total + own / (max(own[0], np.finfo(np.float64).tiny) if shares else 1.0)
        return np.maximum.accumulate(total[::-1])[::-1]

    @cached_property
    def _tails(self) -> dict[OutputWeight, list[Losses]]:
        """What stands in the place of G -> for each weight its loss at every rank."""
        found: dict[OutputWeight, list[Losses]] = {
            OutputWeight.MOMENT: [],
            OutputWeight.IDENTITY: [],
        }
        down_SN = self._down
        for at, known in enumerate(self.moments):
            up_MS = self._up(at)
            plain_SS = up_MS.T @ up_MS
            white_SS = plain_SS * (down_SN @ down_SN.T) * float(known.input_square_mean.mean())
            inputs_SS = down_SN @ known.input_moment @ down_SN.T
            grams = {
                OutputWeight.MOMENT: (self._output_gram(at, up_MS), known.grad_square_mean),
                OutputWeight.IDENTITY: (plain_SS, 1.0),
            }
            for output, (gram_SS, mean) in grams.items():
                both_SS = gram_SS * inputs_SS + DOUBT * mean * white_SS
                found[output].append(tail_sums(both_SS).cpu().numpy())
        return found

    @property
    def _down(self) -> Tensor:
        """[S, N], float64."""
        weight_LN, outer_SS = self.stacked.weight_MN, self.stacked.outer_SS
        return outer_SS if self.stacked.moments.wide else outer_SS @ weight_LN.to(outer_SS)

    def _up(self, at: int) -> Tensor:
        """[M, S] of one weight, float64."""
        inner_SS, rows = self.stacked.inner_SS, len(self.weights[at])
        if self.stacked.moments.wide:
            return self.weights[at].to(inner_SS) @ inner_SS
        return inner_SS[at * rows : (at + 1) * rows]

    def _output_gram(self, at: int, up_MS: Tensor) -> Tensor:
        """up^T G up of one weight."""
        known, inner_SS = self.moments[at], self.stacked.inner_SS
        if known.wide:  # then all together are, and up = W inner
            return inner_SS.T @ known.projected_moment @ inner_SS
        return up_MS.T @ known.side_moment @ up_MS


@dataclass(frozen=True)
class SharedPart:
    """One weight of a group, of which a carrier makes tensors."""

    found: SharedSvd
    at: int

    @property
    def module(self) -> str:
        """Name of its module."""
        return self.found.modules[self.at]

    @property
    def weight_MN(self) -> Tensor:  # noqa: N802 - shape suffix
        """The dense weight."""
        return self.found.weights[self.at]

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """(its up [M, R], the down [R, N] of all), float64."""
        up_LR, down_RN = self.found.pair(rank)
        rows = len(self.weight_MN)
        return up_LR[self.at * rows : (self.at + 1) * rows], down_RN


def decompose_shared(
    name: str,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Moments],
    method: Method,
) -> SharedSvd:
    """Components of several weights under the summed moment of their inputs.

    Args:
        name: of the group, for messages.
        weights: module -> [M, N], in the order of their layers; one shape for all.
        moments: of these weights; with the input moment also where that is the long side.
        method: whose metrics are taken: no metric of the outputs, moments of the inputs.

    Raises:
        DecompositionFailed: no statistics, NaN, no convergence, or weights of different shapes.
    """
    modules, parts = tuple(weights), tuple(each.detach() for each in weights.values())
    if len({tuple(each.shape) for each in parts}) != 1:
        raise DecompositionFailed(name, "its weights are of different shapes")
    known = tuple(moments[module] for module in modules if module in moments)
    if len(known) < len(modules):
        raise DecompositionFailed(name, "no calibration statistics of one of its weights")
    for module, each in zip(modules, known, strict=True):
        if problem := each.problem():
            raise DecompositionFailed(name, f"{module}: {problem}")
        if not bool(torch.isfinite(weights[module]).all()):
            raise DecompositionFailed(name, f"{module}: NaN or infinite weight")
    try:
        stacked = stacked_moments(parts, known)
    except CalibrationError as error:
        raise DecompositionFailed(name, str(error)) from error
    found = decompose(torch.cat(parts), stacked, method, module=name)
    return SharedSvd(name, modules, parts, known, found)


def stacked_moments(weights: Sequence[Tensor], moments: Sequence[Moments]) -> Moments:
    """Moments of weights that stand one above the other, as if the inputs of all came to each.

    Args:
        weights: [M, N] each.
        moments: of these weights.

    Raises:
        CalibrationError: an input moment was not gathered.
    """
    inputs_NN = torch.stack([each.input_moment for each in moments]).sum(0)
    weight_LN = torch.cat([each.to(inputs_NN) for each in weights])
    rows, columns = weight_LN.shape
    if rows > columns:
        side_SS = inputs_NN
        projected_SS = torch.stack(
            [_projected_grads(*both) for both in zip(weights, moments, strict=True)]
        ).sum(0)
    else:
        side_SS = torch.block_diag(*(each.grad_moment for each in moments))
        projected_SS = weight_LN @ inputs_NN @ weight_LN.T
    return replace(
        moments[0],
        rows=rows,
        columns=columns,
        projected_moment=projected_SS,
        side_moment=side_SS,
        input_abs_mean=torch.stack([each.input_abs_mean for each in moments]).sum(0),
        input_square_mean=inputs_NN.diagonal().clone(),
        grad_square_mean=sum(each.grad_square_mean for each in moments) / len(moments),
        long_moment=None,
        grad_output_mean=None,
        input_abs_max=None,
    )


def _projected_grads(weight_MN: Tensor, known: Moments) -> Tensor:
    """W^T G W, [N, N]."""
    if known.wide:
        return known.projected_moment
    weight_MN = weight_MN.to(known.side_moment)
    return weight_MN.T @ known.side_moment @ weight_MN


def shared_factors(found: SharedSvd, decision: SharedBasis) -> FactorSet:
    """The tensors of every weight of a group, in the dtype of the weights.

    Raises:
        DecompositionFailed: a factor is not finite in that dtype.
    """
    made = FactorSet()
    for at, (module, weight) in enumerate(zip(found.modules, found.weights, strict=True)):
        part, shape = decision.of(at), (len(weight), weight.shape[1])
        made[module] = make_factors(SharedPart(found, at), part, *shape, weight.dtype)
    return made
