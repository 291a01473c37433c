"""The low-rank methods: four settings of one decomposition.

Each minimises |L^1/2 (W - W') R^1/2| over matrices W' of a rank, for a metric L of the outputs and
R of the inputs. The names stand for these factors only: ranks come from the planner, or from
:mod:`gacfx.compressors.allocate` for a method's own allocation.
"""

from dataclasses import dataclass
from enum import StrEnum

from gacfx.errors import PipelineError


class Metric(StrEnum):
    """How errors on one side of a weight are weighed."""

    IDENTITY = "identity"
    """All channels alike."""
    CHANNEL_SCALE = "channel-scale"
    """diag(mean |x|): ASVD's scale (mean |x|)^1/2 on each input channel; inputs only."""
    MOMENT = "moment"
    """The second moment E[x x^T] of the inputs, or E[g g^T] of the output gradients."""


@dataclass(frozen=True, slots=True)
class Method:
    """A low-rank method by its metrics."""

    name: str
    left: Metric
    """Metric of the outputs: identity or moment."""
    right: Metric
    """Metric of the inputs."""
    source: str


METHODS = {
    method.name: method
    for method in (
        Method("svd", Metric.IDENTITY, Metric.IDENTITY, "Eckart and Young 1936"),
        Method("asvd", Metric.IDENTITY, Metric.CHANNEL_SCALE, "Yuan et al. 2023, alpha = 0.5"),
        Method("svd-llm", Metric.IDENTITY, Metric.MOMENT, "Wang et al. 2024, whitening"),
        Method(
            "gfwsvd",
            Metric.MOMENT,
            Metric.MOMENT,
            "generalized Fisher-weighted SVD; K-FAC metric of Martens and Grosse 2015",
        ),
    )
}
"""Name -> method; :func:`register` adds one."""


def register(method: Method) -> Method:
    """Make a method known by its name, to ``measure-curves`` and the command line alike.

    Raises:
        PipelineError: another method has that name.
    """
    if METHODS.setdefault(method.name, method) != method:
        raise PipelineError(f"two methods are called {method.name!r}")
    return method
