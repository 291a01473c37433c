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

import numpy as np
from torch import Tensor

from gacfx.compressors.methods import METHODS, Metric
from gacfx.core.curves import Curve
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed


def proxy_of(method: str) -> str:
    """The proxy that goes with a method: the one of Table 1, or what the method looks at."""
    metrics = METHODS[method]
    if metrics.left is Metric.MOMENT:
        return "fisher"
    return "activation" if metrics.right is Metric.CHANNEL_SCALE else "magnitude"


def importance(weight_MN: Tensor, moments: Moments, proxy: str, *, module: str = "") -> float:
    """Score of one parameter of a weight, above 0.

    Raises:
        DecompositionFailed: it is 0 or not finite, so nothing can be said of the weight.
    """
    inputs = float(moments.input_square_mean.mean())
    score = {
        "magnitude": float(weight_MN.detach().double().square().mean()),
        "activation": inputs,
        "fisher": moments.grad_square_mean * inputs,
    }[proxy]
    if not (isfinite(score) and score > 0):
        raise DecompositionFailed(module, f"its importance by {proxy} is {score}")
    return score


def linear_curve(module: str, rows: int, columns: int, score: float, value_model: str) -> Curve:
    """Importance x parameters that are gone, at every rank; no nats.

    Eq. 4 counts from the compressor's own rank, this counts from the dense weight: all values of a
    weight differ by the same amount, so the best plans are the same.
    """
    ranks = np.arange(min(rows, columns) + 1)
    gone = rows * columns - ranks * (rows + columns)
    return Curve(module, rows, columns, score * np.maximum(gone, 0).astype(np.float64), value_model)
