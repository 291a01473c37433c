"""Importance scores of whole weights, and the linear curve that GAC-v2 makes of them (Eq. 4).

The paper names four proxies (Table 1). All are counted per parameter here, because Eq. 4 multiplies
them by parameters; under ``literal`` stands the form that the paper prints, which counts size, too
(:func:`literal_importance`). h is the output, g the gradient of the loss at it, tr F a sum over the
parameters:

    proxy        here, weight [M, N]              literal                 the paper's example
    magnitude    mean W^2                         ||W||_F                 svd-llm
    activation   mean x^2                         ||X||_F, all tokens     asvd
    fisher       mean g^2 x mean x^2              tr F                    palu
    gradient     mean |g h| / N                   sum over M of |g h|     llm-pruner

Fisher is the mean of the Fisher diagonal when g and x are independent (K-FAC). Labels are sampled
from the model, as for all statistics, and not those of the text: the size of |g h| is what counts,
no sign is summed over tokens, and a model that knows the text draws labels much like it.

A score says nothing about where in a weight the loss sits, so the curve is a straight line, and the
planner's best choice lies at the ends of what it is offered. It is here to reproduce the paper.
"""

from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gacfx.core.curves import Curve
from gacfx.core.defaults import PROXIES
from gacfx.errors import DecompositionFailed, PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.core.statistics import Moments

UNCALIBRATED = ("magnitude",)
"""Those that the weights alone say."""


def importance(
    weight_MN: "Tensor", moments: "Moments | None", proxy: str, *, module: str = ""
) -> float:
    """Score of one parameter of a weight, above 0.

    Args:
        weight_MN: any floating dtype.
        moments: of the weight; not needed for those of :data:`UNCALIBRATED`.
        proxy: one of :data:`PROXIES`.
        module: name for messages.

    Raises:
        DecompositionFailed: it is 0 or not finite, or was not gathered, so nothing can be said of
            the weight.
        PipelineError: there is no such proxy.
    """
    score = _score(weight_MN, moments, proxy, module)
    if not (isfinite(score) and score > 0):
        raise DecompositionFailed(module, f"its importance by {proxy} is {score}")
    return score


def literal_importance(
    weight_MN: "Tensor", moments: "Moments | None", proxy: str, *, module: str = ""
) -> float:
    """The same score as the paper prints it: of the whole weight, so that large ones score more.

    Arguments and errors are those of :func:`importance`.
    """
    score, (rows, columns) = importance(weight_MN, moments, proxy, module=module), weight_MN.shape
    params = rows * columns
    if proxy == "magnitude":
        return sqrt(score * params)
    if proxy == "activation" and moments is not None:
        return sqrt(score * columns * max(moments.tokens_seen, 1))
    return score * params


def _score(weight_MN: "Tensor", moments: "Moments | None", proxy: str, module: str) -> float:
    if proxy not in PROXIES:
        raise PipelineError(f"{module}: no proxy {proxy!r}; known: {', '.join(PROXIES)}")
    if proxy == "magnitude":
        return float(weight_MN.detach().double().square().mean())
    if moments is None:
        raise DecompositionFailed(module, f"{proxy} needs calibration, and there was none")
    inputs = float(moments.input_square_mean.mean())
    if proxy == "activation":
        return inputs
    if proxy == "fisher":
        return moments.grad_square_mean * inputs
    if moments.grad_output_mean is None:
        raise DecompositionFailed(
            module,
            "its gradient importance was not gathered: its statistics are of an older gacfx, or "
            "the model changes its output in place",
        )
    return moments.grad_output_mean / moments.columns


def linear_losses(rows: int, columns: int, score: float) -> NDArray[np.float64]:
    """Importance x parameters that are gone, at every rank; no nats.

    Eq. 4 counts from the compressor's own rank, this counts from the dense weight: all values of a
    weight differ by the same amount, so the best plans are the same.
    """
    ranks = np.arange(min(rows, columns) + 1)
    gone = rows * columns - ranks * (rows + columns)
    return np.asarray(score * np.maximum(gone, 0).astype(np.float64))


def linear_curve(module: str, rows: int, columns: int, score: float, value_model: str) -> Curve:
    """The same as the curve of a weight."""
    return Curve(module, rows, columns, linear_losses(rows, columns, score), value_model)
