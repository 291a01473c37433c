"""What is left of a weight where outputs or inputs go, with the moments of what is left.

    shortened   outputs go:  W_K:,                         G_KK, same A
    narrowed    inputs go:   W_:K + W_:S A_SK (A_KK)^-1,   same G, A_KK

The inputs that stay take over, as well as they can, what the others gave: the least-squares refit
under A (optimal brain surgeon, Hassibi and Stork 1993). Whatever is left has its full moments, so
that every method can decompose it further.
"""

# M outputs, N inputs, K those that stay, S those that go

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gacfx.compressors.pruning.damping import damped
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed

Kept = Sequence[int] | NDArray[np.int64] | Tensor
"""Positions that stay, in the order that they get."""


def shortened(weight_MN: Tensor, moments: Moments, kept_outputs: Kept) -> tuple[Tensor, Moments]:
    """(weight [K, N] in its own dtype, its moments) when only some outputs stay.

    Args:
        weight_MN: any floating dtype.
        moments: of this weight; those of both sides where it has more outputs than inputs.
        kept_outputs: at least one.

    Raises:
        CalibrationError: the moment of the long side is needed and was not gathered.
    """
    kept_K = _index(kept_outputs, moments.side_moment)
    weight_KN = weight_MN.detach()[kept_K.to(weight_MN.device)]
    if moments.wide:
        grad_KK = _square(moments.grad_moment, kept_K)
        return weight_KN, Moments.from_both_sides(
            weight_KN,
            moments.input_moment,
            grad_KK,
            moments.input_abs_mean,
            moments.tokens_seen,
            moments.input_abs_max,
        )
    grad_KK = _square(moments.side_moment, kept_K)
    return weight_KN, replace(
        moments,
        rows=len(kept_K),
        projected_moment=_square(moments.projected_moment, kept_K),
        side_moment=grad_KK,
        grad_square_mean=float(grad_KK.diagonal().mean()),
        grad_output_mean=None,
    )


def narrowed(
    weight_MN: Tensor, moments: Moments, kept_inputs: Kept, *, module: str = ""
) -> tuple[Tensor, Moments]:
    """(weight [M, K] in float64, its moments) when only some inputs stay and take over.

    Args:
        weight_MN: any floating dtype.
        moments: of this weight, of both sides.
        kept_inputs: at least one.
        module: name for messages.

    Raises:
        CalibrationError: the moment of the long side is needed and was not gathered.
        DecompositionFailed: the moment of the inputs cannot be inverted, or something is not
            finite: keep the weight as it is and record the reason.
    """
    if problem := moments.problem():
        raise DecompositionFailed(module, problem)
    input_NN = moments.input_moment
    kept_K, weight_MN = _index(kept_inputs, input_NN), weight_MN.detach().to(input_NN)
    gone_S = _others(kept_K, len(input_NN))
    if not len(gone_S):
        return _with_inputs(weight_MN[:, kept_K], moments, kept_K)
    scale = float(moments.input_square_mean.mean())
    _, root_KK = damped(_square(input_NN, kept_K), scale=scale, module=module)
    given_KM = input_NN[kept_K][:, gone_S] @ weight_MN[:, gone_S].T
    taken_KM = torch.cholesky_solve(given_KM, root_KK)
    weight_MK = weight_MN[:, kept_K] + taken_KM.T
    if not bool(torch.isfinite(weight_MK).all()):
        raise DecompositionFailed(module, "the weight that takes over is not finite")
    return _with_inputs(weight_MK, moments, kept_K)


def sliced_only(weight_MN: Tensor, moments: Moments, kept_inputs: Kept) -> tuple[Tensor, Moments]:
    """The same as :func:`narrowed`, with nothing taking over: methods without compensation."""
    kept_K = _index(kept_inputs, moments.side_moment)
    return _with_inputs(weight_MN.detach().to(moments.side_moment)[:, kept_K], moments, kept_K)


def _with_inputs(weight_MK: Tensor, moments: Moments, kept_K: Tensor) -> tuple[Tensor, Moments]:
    """The weight, and what its moments are with these inputs."""
    input_KK = _square(moments.input_moment, kept_K)
    largest_N = moments.input_abs_max
    return weight_MK, Moments.from_both_sides(
        weight_MK,
        input_KK,
        moments.grad_moment,
        moments.input_abs_mean[kept_K],
        moments.tokens_seen,
        None if largest_N is None else largest_N[kept_K],
    )


def _index(kept: Kept, like: Tensor) -> Tensor:
    found = torch.as_tensor(kept, dtype=torch.int64, device=like.device)
    if not len(found):
        raise ValueError("nothing would be left of the weight; keep at least one position")
    return found


def _others(kept_K: Tensor, size: int) -> Tensor:
    gone = torch.ones(size, dtype=torch.bool, device=kept_K.device)
    gone[kept_K] = False
    return gone.nonzero()[:, 0]


def _square(moment: Tensor, kept_K: Tensor) -> Tensor:
    return moment[kept_K][:, kept_K]
