"""Which directions of the residual stream stay: moments at the norms -> orthonormal columns.

``pca``: the principal components of all points together, each normalised as its norm leaves it.
Source: SliceGPT (arXiv 2401.15024), section 3.2, with one sum of covariances for all points.

``two-sided``: with C and G the moments of a point and of its gradient, the directions U that go
cost about

    sum over points of tr((U^T C U) (U^T G U)),

the Kronecker-factored second-order model of the loss that gacfx ranks by as well (Martens and
Grosse 2015): a direction may go where the stream is short or where nobody minds. There is no closed
form; a descent begins at the principal components and gives the best that it has seen.
"""

# H hidden size, K kept directions, L lost ones, P points, S of the subspace that can be kept

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from gacfx.errors import CalibrationError, PlanError
from gacfx.slicing.basis import without_ones
from gacfx.slicing.moments import NormMoments

Rotation = Literal["two-sided", "pca"]
ROTATIONS: tuple[Rotation, ...] = get_args(Rotation)

DAMPING = 0.01
"""Added to the diagonal of the covariance, as a share of its mean."""
STEPS = 150
"""Of the descent."""
RATE = 3e-3
"""Of Adam, on columns of length one."""


def kept_directions(
    moments: Mapping[str, NormMoments], kept: int, *, centred: bool, rotation: Rotation
) -> Tensor:
    """[H, K] orthonormal columns, float64.

    Args:
        moments: of every norm; with gradients for ``two-sided``.
        kept: how many.
        centred: leave the direction of ones out, which the norms take off.
        rotation: how they are chosen.

    Raises:
        PlanError: more directions than there are, or no such rotation.
        CalibrationError: an eigenproblem has no solution.
    """
    points = list(moments.values())
    hidden = len(points[0].moment_HH)
    allowed_HS = (without_ones(hidden) if centred else torch.eye(hidden, dtype=torch.float64)).to(
        points[0].moment_HH
    )
    if not 1 <= kept <= allowed_HS.shape[1]:
        raise PlanError(f"{kept} directions of {allowed_HS.shape[1]} cannot be kept")
    if rotation not in ROTATIONS:
        raise PlanError(f"rotation {rotation!r}: choose one of {', '.join(ROTATIONS)}")
    inside = [allowed_HS.T @ each.moment_HH @ allowed_HS for each in points]
    turned_SS = principal(torch.stack(inside).sum(0))
    if rotation == "two-sided" and kept < len(turned_SS):
        outside = [allowed_HS.T @ _gradient(each) @ allowed_HS for each in points]
        lost_SL = descend(torch.stack(inside), torch.stack(outside), turned_SS[:, kept:])
        turned_SS = _completed(lost_SL)
    return allowed_HS @ turned_SS[:, :kept]


def principal(covariance_SS: Tensor) -> Tensor:
    """All principal components as columns, the largest first.

    Raises:
        CalibrationError: the eigenproblem has no solution.
    """
    damping = DAMPING * covariance_SS.diagonal().mean()
    damped_SS = covariance_SS + damping * torch.eye(len(covariance_SS)).to(covariance_SS)
    try:
        vectors_SS: Tensor = torch.linalg.eigh(damped_SS).eigenvectors
    except RuntimeError as error:
        raise CalibrationError(
            f"the covariance of the residual stream has no eigenvectors ({error}); give more text"
        ) from error
    return vectors_SS.flip(1)


def cost(moments_PSS: Tensor, gradients_PSS: Tensor, lost_SL: Tensor) -> Tensor:
    """What it costs by the second-order model that directions go; twice the nats, a scalar.

    Args:
        moments_PSS: C of each point.
        gradients_PSS: G of each point.
        lost_SL: orthonormal columns.
    """
    inside_PLL = lost_SL.T @ moments_PSS @ lost_SL
    outside_PLL = lost_SL.T @ gradients_PSS @ lost_SL
    return (inside_PLL * outside_PLL).sum()


def descend(moments_PSS: Tensor, gradients_PSS: Tensor, start_SL: Tensor) -> Tensor:
    """The cheapest directions that were seen on the way down, orthonormal; never worse than those
    that it starts from.

    Arguments are those of :func:`cost`.
    """
    unit = cost(moments_PSS, gradients_PSS, start_SL).clamp_min(torch.finfo(torch.float64).tiny)
    free_SL, best_SL, least = start_SL.clone().requires_grad_(), start_SL, float("inf")
    descent = torch.optim.Adam([free_SL], lr=RATE)
    for _ in range(STEPS + 1):
        with torch.enable_grad():
            lost_SL = torch.linalg.qr(free_SL).Q
            found = cost(moments_PSS, gradients_PSS, lost_SL) / unit
        if float(found.detach()) < least:
            least, best_SL = float(found.detach()), lost_SL.detach()
        descent.zero_grad()
        found.backward()
        descent.step()
    return best_SL


def _gradient(point: NormMoments) -> Tensor:
    if point.gradient_HH is None:
        raise CalibrationError("a two-sided rotation needs gradients; gather the moments with them")
    return point.gradient_HH


def _completed(lost_SL: Tensor) -> Tensor:
    """All of the subspace: what is left first, then the directions that go."""
    whole = torch.linalg.qr(lost_SL, mode="complete").Q
    lost = lost_SL.shape[1]
    return torch.cat([whole[:, lost:], whole[:, :lost]], 1)
