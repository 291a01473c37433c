"""A weight as rank-1 pieces whose energies are nats of task loss.

    W = up down,  z = down x,  and dropping piece i costs about z_i^2 / 2 nats per token

Any method's components become such a pool: its pieces in its own order, each scaled by the second
moment of the output gradients along it. For ``gfwsvd`` the pieces are orthogonal in that metric, so
that energies add up exactly in the Kronecker-factored model of the loss; for the others the terms
between pieces are left out. Source: the Fisher matrix of Martens and Grosse 2015.
"""

# M outputs, N inputs, S = min(M, N)

from dataclasses import dataclass

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
            module, up_MS / scale_S, down_SN * scale_S[:, None], outer_SS * scale_S[:, None], wide
        )

    @property
    def rank(self) -> int:
        """S."""
        return len(self.down_SN)

    def energy(self, moments: Moments) -> Tensor:
        """E[z z^T] / 2 on some text, float64 [S, S], nats per token.

        Args:
            moments: of this weight on that text.
        """
        seen_SS = moments.side_moment if self.wide else moments.projected_moment
        found_SS = self.outer_SS @ seen_SS.to(self.outer_SS) @ self.outer_SS.T
        return (found_SS + found_SS.T) / 4

    def pieces(self, directions_SK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(down [K, N], up [K, M]) of directions of z, as they are stored: ranks first.

        Both factors of a piece have the same norm, so that neither leaves the range of half
        precision.

        Args:
            directions_SK: orthonormal columns; None for the pieces themselves.
        """
        down_KN, up_KM = self.down_SN, self.up_MS.T
        if directions_SK is not None:
            down_KN, up_KM = directions_SK.T @ down_KN, directions_SK.T @ up_KM
        up_MK, down_KN = balanced(up_KM.T, down_KN)
        return down_KN, up_MK.T
