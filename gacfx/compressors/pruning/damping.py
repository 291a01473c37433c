"""A moment that can be inverted: a small ridge, and a larger one where that is not enough."""

# N inputs

import torch
from torch import Tensor

from gacfx.errors import DecompositionFailed

RIDGE = 1e-8
"""Share of the mean diagonal of A that is added to it. A channel that calibration never saw is
then worth nothing instead of having no inverse."""

MOST = 1e-2
"""The largest ridge that is tried. Sums in float32 may leave eigenvalues a little below zero."""


def damped(
    moment_NN: Tensor, *, scale: float | None = None, module: str = ""
) -> tuple[Tensor, Tensor]:
    """(A + ridge, its lower Cholesky factor), float64.

    Args:
        moment_NN: A, or the part of it that stays.
        scale: mean diagonal that the ridge is a share of; None for that of ``moment_NN``.
        module: name for messages.

    Raises:
        DecompositionFailed: A is zero, not finite, or not positive even with the largest ridge.
    """
    moment_NN = ((moment_NN + moment_NN.T) / 2).double()
    scale = float(moment_NN.diagonal().mean()) if scale is None else scale
    if not bool(torch.isfinite(moment_NN).all()):
        raise DecompositionFailed(module, "NaN or infinite calibration statistics")
    if not scale > 0:
        raise DecompositionFailed(module, "no calibration token reached this weight")
    ridge = RIDGE
    while ridge <= MOST:
        found_NN = moment_NN.clone()
        found_NN.diagonal().add_(ridge * scale)
        root_NN, info = torch.linalg.cholesky_ex(found_NN)
        if int(info) == 0:
            return found_NN, root_NN
        ridge *= 10
    raise DecompositionFailed(module, f"the moment of its inputs is not positive (ridge {MOST:g})")
