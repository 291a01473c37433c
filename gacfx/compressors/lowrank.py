"""Weighted low-rank decomposition on the short side of a weight: weight + moments -> factors.

With S = min(M, N) one symmetric S x S eigenproblem gives the factors of every rank. The metrics are
L of the outputs and R of the inputs, X = C C^T with a Cholesky factor C of the short side's one:

    M <= N   L = C C^T   eigh(C^T (W R W^T) C) = U s^2 U^T    up = C^-T U     down = U^T C^T W
    M >  N   R = C C^T   eigh(C^T (W^T L W) C) = V s^2 V^T    up = W C V      down = V^T C^-1

W R W^T (or W^T L W) is the projected moment of the statistics where the metric is a moment, so the
moment of the long side is never formed. The first r components are the best rank-r weight in the
metric; all of them give W back. Sources: Eckart and Young 1936, in a weighted norm; the metric of
gfwsvd is the Kronecker-factored Fisher matrix of Martens and Grosse 2015.
"""

# M outputs, N inputs, S = min(M, N), R rank

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import Compressor, Decomposition
from gacfx.core.materialise import Factors
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed
from gacfx.modules.low_rank import balanced

EIGENVALUE_FLOOR = 1e-10
"""What is added to a moment that is inverted, as a share of its norm. A direction that calibration
never saw keeps this little weight instead of none, so that the Cholesky factor has an inverse of
condition 1e5 and the factors of full rank give the weight back to about 1e-11."""

SCALE_FLOOR = 1e-3
"""Smallest channel scale of ``asvd``, as a share of the median of the living channels."""


@dataclass(frozen=True, eq=False)
class WeightedSvd(Decomposition):
    """A weight cut into S components, best first, in the metric of a method."""

    module: str
    method: Compressor
    weight_MN: Tensor
    moments: Moments
    inner_SS: Tensor
    """float64: ``up`` = C^-T U when M <= N, else C V, with which ``up`` = W inner."""
    outer_SS: Tensor
    """float64, the inverse of ``inner_SS``: U^T C^T, or ``down`` = V^T C^-1."""

    @property
    def components(self) -> tuple[Tensor, Tensor]:
        """(inner, outer): the pairs of all ranks are nested in it."""
        return self.inner_SS, self.outer_SS

    def factors(self, rank: int, dtype: torch.dtype | None = None) -> Factors:
        """W ~ up down with ``rank`` components.

        Both factors of a component have the same norm, so that neither leaves the range of half
        precision; they are computed in float64 and cast at the end.

        Args:
            rank: 1 .. S.
            dtype: of the factors; None for that of the weight.

        Raises:
            DecompositionFailed: a factor is not finite in ``dtype``.
        """
        up_MR, down_RN = balanced(*self.pair(rank))
        dtype = dtype or self.weight_MN.dtype
        factors = Factors.pair(down_RN.to(dtype), up_MR.to(dtype))
        if not factors.finite:
            raise DecompositionFailed(self.module, f"factors of rank {rank} overflow {dtype}")
        return factors

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """(up [M, R], down [R, N]) of W ~ up down, float64, not scaled."""
        short = min(self.weight_MN.shape)
        if not 1 <= rank <= short:
            raise ValueError(f"{self.module}: rank {rank} is outside 1 .. {short}")
        weight_MN = self.weight_MN.to(self.inner_SS)
        if self.moments.wide:
            return weight_MN @ self.inner_SS[:, :rank], self.outer_SS[:rank]
        return self.inner_SS[:, :rank], self.outer_SS[:rank] @ weight_MN


def decompose(
    weight_MN: Tensor, moments: Moments, method: Method, *, module: str = ""
) -> WeightedSvd:
    """Components of a weight in the metric of a method, on the device of the moments.

    Args:
        weight_MN: any floating dtype; the torch layout (outputs first), also for a Conv1D.
        moments: of this weight.
        method: which metrics.
        module: name for messages and curves.

    Raises:
        DecompositionFailed: NaN, no convergence, no statistics: keep the weight dense and record
            the reason.
    """
    inner_SS, outer_SS = checked_components(
        weight_MN, moments, lambda: _components(weight_MN.detach(), moments, method), module
    )
    return WeightedSvd(module, method, weight_MN.detach(), moments, inner_SS, outer_SS)


def checked_components(
    weight_MN: Tensor,
    moments: Moments,
    make: Callable[[], tuple[Tensor, Tensor]],
    module: str = "",
) -> tuple[Tensor, Tensor]:
    """(inner, outer) of a weight, both [S, S], contiguous and finite.

    Args:
        weight_MN: to decompose.
        moments: of this weight.
        make: gives them, by an eigenproblem.
        module: name for messages.

    Raises:
        DecompositionFailed: NaN, no convergence, no statistics.
    """
    if tuple(weight_MN.shape) != moments.shape:
        raise ValueError(f"{module}: weight {tuple(weight_MN.shape)}, moments {moments.shape}")
    if problem := moments.problem():
        raise DecompositionFailed(module, problem)
    if not bool(torch.isfinite(weight_MN).all()):
        raise DecompositionFailed(module, "NaN or infinite weight")
    try:
        inner_SS, outer_SS = make()
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise DecompositionFailed(module, f"it has no decomposition: {error}") from error
    if not bool(torch.isfinite(inner_SS).all() and torch.isfinite(outer_SS).all()):
        raise DecompositionFailed(module, "components are not finite")
    # In one layout, so that what is kept in a file computes the same bits when it is read again.
    return inner_SS.contiguous(), outer_SS.contiguous()


def _components(weight_MN: Tensor, moments: Moments, method: Method) -> tuple[Tensor, Tensor]:
    """(inner, outer) of :class:`WeightedSvd`."""
    wide = moments.wide
    short_metric, long_metric = (method.right, method.left) if wide else (method.left, method.right)
    root_SS = _root(short_metric, moments, method)
    core_SS = _projected(weight_MN if wide else weight_MN.T, moments, long_metric, method)
    basis_SS = torch.linalg.eigh(_symmetric_(root_SS.T @ core_SS @ root_SS)).eigenvectors.flip(1)
    del core_SS
    if wide:
        # V^T C^-1, of the transposed problem: C^T X = V.
        outer_SS = torch.linalg.solve_triangular(root_SS.T, basis_SS, upper=True).T
        return root_SS @ basis_SS, outer_SS
    inner_SS = torch.linalg.solve_triangular(root_SS.T, basis_SS, upper=True)
    return inner_SS, basis_SS.T @ root_SS.T


def _projected(weight_LS: Tensor, moments: Moments, metric: Metric, method: Method) -> Tensor:
    """The long side's metric seen from the short side, [S, S]."""
    if metric is Metric.MOMENT:
        return moments.projected_moment
    weight_LS = weight_LS.to(moments.projected_moment)
    if metric is Metric.CHANNEL_SCALE:
        weight_LS = weight_LS * method.input_scale(moments)[:, None]
    return weight_LS.T @ weight_LS


def _root(metric: Metric, moments: Moments, method: Method) -> Tensor:
    """C of the short side's metric C C^T, [S, S], lower triangular."""
    if metric is Metric.MOMENT:
        return moment_root(moments.side_moment)
    if metric is Metric.CHANNEL_SCALE:
        return method.input_scale(moments).diag()
    return torch.eye(len(moments.side_moment)).to(moments.side_moment)


def moment_root(moment_SS: Tensor) -> Tensor:
    """Lower triangular C with C C^T = the moment and a little more, float64.

    ``EIGENVALUE_FLOOR`` times its norm stands beside its diagonal; a moment of zeros weighs nothing
    and gets the identity.
    """
    # Between the largest eigenvalue and sqrt(S) of it, without an eigenproblem.
    size = float(torch.linalg.matrix_norm(moment_SS))
    if not size > 0:
        return torch.eye(len(moment_SS)).to(moment_SS)
    raised_SS = _symmetric_(moment_SS.clone())
    raised_SS.diagonal().add_(EIGENVALUE_FLOOR * size)
    root_SS = _cholesky(raised_SS)
    return _raised_root(raised_SS, EIGENVALUE_FLOOR * size) if root_SS is None else root_SS


def _cholesky(matrix_SS: Tensor) -> Tensor | None:
    """Its lower triangular factor; None where it is not positive definite."""
    root_SS, failed = torch.linalg.cholesky_ex(matrix_SS)
    return None if bool(failed) else root_SS


def _raised_root(moment_SS: Tensor, least: float) -> Tensor:
    """The same where rounding has left eigenvalues below zero, which are raised to ``least``.

    Products in float32 do so where there are fewer tokens than inputs.
    """
    values_S, half_SS = torch.linalg.eigh(moment_SS)
    half_SS *= values_S.clamp_min(least).sqrt()
    root_SS: Tensor = torch.linalg.qr(half_SS.T, mode="r").R.T
    return root_SS.contiguous()


def channel_scale(size_N: Tensor, alpha: float = 0.5) -> Tensor:
    """ASVD's scale of each input channel, size^alpha, with a floor for dead channels.

    Args:
        size_N: of the inputs: mean or largest |x|, at least 0.
        alpha: 0 weighs all channels alike, 1 by their size.
    """
    living = size_N[size_N > 0]
    if not len(living):
        return torch.ones_like(size_N)
    # An absolute floor would drown in large activations, or rule among small ones.
    return size_N.pow(alpha).clamp_min(SCALE_FLOOR * float(living.median()) ** alpha)


def _symmetric_(matrix_SS: Tensor) -> Tensor:
    """The mean of it and its transpose, in its place."""
    return matrix_SS.add_(matrix_SS.T.clone()).div_(2)
