"""Importance scores of whole weights, and the linear curve that GAC-v2 makes of them (Eq. 4).

The paper names four proxies (Table 1). Calibration keeps what three of them need; all are counted
per parameter here, because Eq. 4 multiplies them by parameters:

    magnitude    mean W^2                         svd, svd-llm
    activation   mean x^2                         asvd
    fisher       mean g^2 x mean x^2              gfwsvd; the mean of the Fisher diagonal when g and
                                                  x are independent (K-FAC), labels sampled
    gradient     |dL/dh h|                        not gathered

A score says nothing about where in a weight the loss sits, so the curve is a straight line, and the
planner's best choice lies at the ends of what it is offered. It is here to reproduce the paper.
"""

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gacfx.core.curves import Curve
from gacfx.errors import DecompositionFailed, PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.core.statistics import Moments


def importance(weight_MN: "Tensor", moments: "Moments", proxy: str, *, module: str = "") -> float:
    """Score of one parameter of a weight, above 0.

    Raises:
        DecompositionFailed: it is 0 or not finite, so nothing can be said of the weight.
        PipelineError: a method names a proxy that there is not.
    """
    inputs = float(moments.input_square_mean.mean())
    scores = {
        "magnitude": float(weight_MN.detach().double().square().mean()),
        "activation": inputs,
        "fisher": moments.grad_square_mean * inputs,
    }
    if proxy not in scores:
        raise PipelineError(f"{module}: no proxy {proxy!r}; known: {', '.join(scores)}")
    score = scores[proxy]
    if not (isfinite(score) and score > 0):
        raise DecompositionFailed(module, f"its importance by {proxy} is {score}")
    return score


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
