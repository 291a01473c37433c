"""SVD-LLM (Wang et al. 2024, arXiv 2403.07378): whitening, and its closed-form update.

    W ~ up down     the best pair in the metric E[x x^T] of the dense model's inputs
    update          in the order of the layers, on the inputs that the compressed layers before them
                    give: up = W X Z^T (Z Z^T + ridge)^-1 with Z = down X

The update is made where factors go into a model (:mod:`gacfx.refit`), as it needs the layers
before; curves and ranks know nothing of it.
"""

from dataclasses import dataclass

from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import SIDE_BY_SIDE, Claim
from gacfx.core.settings import setting


@dataclass(frozen=True)
class SvdLlm(Method):
    """SVD-LLM with its setting."""

    update: bool = setting(False, "refit up to the inputs that compressed layers give")

    @property
    def refits(self) -> bool:
        """If the update is asked for."""
        return self.update


SVD_LLM = SvdLlm(
    "svd-llm",
    Metric.IDENTITY,
    Metric.MOMENT,
    "Wang et al. 2024 (arXiv 2403.07378), whitening",
    (
        Claim(
            "lower perplexity than plain SVD with as many parameters",
            SIDE_BY_SIDE,
            "so at 20, 30 and 40 % removed",
        ),
        Claim(
            "lower perplexity than ASVD with as many parameters",
            SIDE_BY_SIDE,
            "so at 30 and 40 % removed; at 20 % ASVD's own ranks lose less",
        ),
        Claim(
            "the update lowers perplexity further",
            SIDE_BY_SIDE,
            "not at 20, 30 and 40 % removed, where it costs 0.001 to 0.003 nats",
        ),
    ),
)
