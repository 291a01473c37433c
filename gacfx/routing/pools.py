"""A weight as rank-1 pieces whose energies are nats of task loss.

    W = up down,  z = down x,  and dropping piece i costs about z_i^2 / 2 nats per token

Any method's components become such a pool: its pieces in its own order, each scaled by the second
moment of the output gradients along it. For ``gfwsvd`` the pieces are orthogonal in that metric. In
the Kronecker-factored model of the loss, dropping some pieces costs

    1/2 sum over dropped i and j of E[z_i z_j] E[h_i h_j],  h = up^T g

on any text. Source: the Fisher matrix of Martens and Grosse 2015.
"""

# M outputs, N inputs, S = min(M, N), K directions

from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.compressors.protocol import Compressor
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed
from gacfx.modules.low_rank import balanced

_LEAST = 1e-30
"""Of the gradient moment along a piece; one that no gradient sees keeps its place."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All S pieces of a weight."""

    module: str
    up_MS: Tensor
    """float64."""
    down_SN: Tensor
    """float64; ``up_MS @ down_SN`` is the weight."""
    outer_SS: Tensor
    """float64: from the short side to z."""
    inner_SS: Tensor
    """float64: its transpose takes gradients at the short side to h."""
    wide: bool
    """The short side is the input."""

    @staticmethod
    def of(weight_MN: Tensor, moments: Moments, method: Compressor, module: str) -> "Pool":
        """The pool of a weight.

        Args:
            weight_MN: any floating dtype.
            moments: of all text together.
            method: whose components are the pieces.
            module: name, for messages.

        Raises:
            DecompositionFailed: the weight has no components: none that are nested, no statistics,
                NaN.
        """
        parts = method.decompose(weight_MN, moments, module)
        if parts.components is None:
            raise DecompositionFailed(module, f"{method.name} has no components of all ranks")
        inner_SS, outer_SS = parts.components
        wide = moments.wide
        metric_SS = moments.projected_moment if wide else moments.side_moment
        gram_S = (inner_SS * (metric_SS @ inner_SS)).sum(0)
        scale_S = gram_S.clamp_min(_LEAST).sqrt()
        up_MS, down_SN = parts.pair(len(inner_SS))
        return Pool(
            module,
            up_MS / scale_S,
            down_SN * scale_S[:, None],
            outer_SS * scale_S[:, None],
            inner_SS / scale_S,
            wide,
        )

    @property
    def rank(self) -> int:
        """S."""
        return len(self.down_SN)

    def seen(self, moments: Moments) -> "PieceMoments":
        """What some text does in the pieces.

        Args:
            moments: of this weight on that text.
        """
        sides = (moments.side_moment, moments.projected_moment)
        input_SS, grad_SS = sides if self.wide else sides[::-1]
        found_SS = self.outer_SS @ input_SS.to(self.outer_SS) @ self.outer_SS.T
        along_SS = self.inner_SS.T @ grad_SS.to(self.inner_SS) @ self.inner_SS
        return PieceMoments((found_SS + found_SS.T) / 4, (along_SS + along_SS.T) / 2)

    def pieces(self, directions: "Directions | None" = None) -> tuple[Tensor, Tensor]:
        """(down [K, N], up [K, M]) of directions, as they are stored: ranks first.

        Both factors of a piece have the same norm, so that neither leaves the range of half
        precision.

        Args:
            directions: None for the pieces themselves.
        """
        down_KN, up_KM = self.down_SN, self.up_MS.T
        if directions is not None:
            down_KN, up_KM = directions.read_SK.T @ down_KN, directions.write_SK.T @ up_KM
        up_MK, down_KN = balanced(up_KM.T, down_KN)
        return down_KN, up_MK.T


@dataclass(frozen=True, eq=False)
class PieceMoments:
    """What one text does in the pieces of a weight, float64 [S, S], per token."""

    energy_SS: Tensor
    """E[z z^T] / 2."""
    grads_SS: Tensor
    """E[h h^T] with h = up^T g: the identity for ``gfwsvd`` on all text together."""

    def nats(self) -> Tensor:
        """[S + 1]: lost per token with the first pieces alone, of 0 up to all S."""
        tail_SS = (self.energy_SS * self.grads_SS).flip(0, 1).cumsum(0).cumsum(1)
        found_S = tail_SS.diagonal().flip(0)
        return torch.cat([found_S, found_S.new_zeros(1)]).clamp_min(0)

    def along(self, directions: "Directions") -> "PieceMoments":
        """The same in directions, [K, K]."""
        read_SK, write_SK = directions.read_SK, directions.write_SK
        return PieceMoments(
            read_SK.T @ self.energy_SS @ read_SK, write_SK.T @ self.grads_SS @ write_SK
        )


@dataclass(frozen=True, eq=False)
class Directions:
    """A projection of z: z becomes ``write_SK @ read_SK.T @ z``."""

    read_SK: Tensor
    """What a piece reads of z."""
    write_SK: Tensor
    """Where it is written; ``read_SK.T @ write_SK`` is the identity."""

    def first(self, count: int) -> "Directions":
        """The first of them."""
        return Directions(self.read_SK[:, :count], self.write_SK[:, :count])
