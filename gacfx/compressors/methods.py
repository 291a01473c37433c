"""The table of methods, and gacfx's own: four settings of one decomposition, and LLM-Pruner.

Each of the four minimises |L^1/2 (W - W') R^1/2| over matrices W' of a rank, for a metric L of the
outputs and R of the inputs. The names stand for these factors only: ranks come from the planner, or
from :mod:`gacfx.compressors.allocate` for a method's own allocation. LLM-Pruner makes widths
instead (:mod:`gacfx.compressors.pruning.llm_pruner`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gacfx.compressors.protocol import Compressor, Statistic
from gacfx.compressors.pruning.llm_pruner import LLM_PRUNER
from gacfx.core.table import Table

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.lowrank import WeightedSvd
    from gacfx.core.statistics import Moments


class Metric(StrEnum):
    """How errors on one side of a weight are weighed."""

    IDENTITY = "identity"
    """All channels alike."""
    CHANNEL_SCALE = "channel-scale"
    """diag(mean |x|): ASVD's scale (mean |x|)^1/2 on each input channel; inputs only."""
    MOMENT = "moment"
    """The second moment E[x x^T] of the inputs, or E[g g^T] of the output gradients."""


_LEFT = {Metric.IDENTITY: "", Metric.MOMENT: "G^1/2 "}
_RIGHT = {Metric.IDENTITY: "", Metric.CHANNEL_SCALE: " S^1/2", Metric.MOMENT: " A^1/2"}


@dataclass(frozen=True)
class Method(Compressor):
    """A low-rank method by its metrics."""

    name: str
    left: Metric
    """Metric of the outputs: identity or moment."""
    right: Metric
    """Metric of the inputs."""
    source: str

    @property
    def minimises(self) -> str:
        """A norm of the error D = W - W'."""
        return f"|{_LEFT[self.left]}D{_RIGHT[self.right]}|"

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Those that its metrics are made of."""
        needs = {
            Metric.CHANNEL_SCALE: (Statistic.INPUT_ABS_MEAN,),
            Metric.MOMENT: (Statistic.INPUT_MOMENT,),
        }.get(self.right, ())
        return (*needs, Statistic.GRAD_MOMENT) if self.left is Metric.MOMENT else needs

    @property
    def proxy(self) -> str:
        """The one of GAC-v2's Table 1, or what the method looks at."""
        if self.left is Metric.MOMENT:
            return "fisher"
        return "activation" if self.right is Metric.CHANNEL_SCALE else "magnitude"

    def decompose(self, weight_MN: "Tensor", moments: "Moments", module: str = "") -> "WeightedSvd":
        """Components of a weight in these metrics; see :mod:`gacfx.compressors.lowrank`."""
        from gacfx.compressors.lowrank import (
            decompose,  # torch, which a list of names can do without
        )

        return decompose(weight_MN, moments, self, module=module)

    def restored(
        self,
        weight_MN: "Tensor",
        moments: "Moments",
        module: str,
        components: "tuple[Tensor, Tensor]",
    ) -> "WeightedSvd":
        """The same decomposition, without an eigenproblem."""
        from gacfx.compressors.lowrank import WeightedSvd

        return WeightedSvd(module, self, weight_MN.detach(), moments, *components)


LOW_RANK = {
    method.name: method
    for method in (
        Method("svd", Metric.IDENTITY, Metric.IDENTITY, "Eckart and Young 1936"),
        Method("asvd", Metric.IDENTITY, Metric.CHANNEL_SCALE, "Yuan et al. 2023, alpha = 0.5"),
        Method("svd-llm", Metric.IDENTITY, Metric.MOMENT, "Wang et al. 2024, whitening"),
        Method("gfwsvd", Metric.MOMENT, Metric.MOMENT, "K-FAC metric, Martens and Grosse 2015"),
    )
}
"""gacfx's own that make ranks, by name."""

METHODS: Table[Compressor] = Table(
    "method",
    Compressor,  # type: ignore[type-abstract]
    "gacfx.compressors",
    (*LOW_RANK.values(), LLM_PRUNER),
)
"""Name -> method; :func:`register` and entry points of ``gacfx.compressors`` add to it."""

DEFAULT = "gfwsvd"


def register(method: Compressor) -> Compressor:
    """Make a method known by its name, to ``measure-curves`` and the command line alike.

    Raises:
        PipelineError: another method has that name.
    """
    return METHODS.register(method)
