"""Low-rank methods by their metrics: what an error of a weight is measured in, on each side.

A method minimises |L^1/2 (W - W') R^1/2| over matrices W' of a rank, for a metric L of the outputs
and R of the inputs. Decomposing is the same for all of them (:mod:`gacfx.compressors.lowrank`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gacfx.compressors.protocol import Claim, Compressor, Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.lowrank import WeightedSvd
    from gacfx.core.statistics import Moments


class Metric(StrEnum):
    """How errors on one side of a weight are weighed."""

    IDENTITY = "identity"
    """All channels alike."""
    CHANNEL_SCALE = "channel-scale"
    """diag(s^2) of ASVD's scale s on each input channel, (mean |x|)^1/2 unless a method says
    otherwise; inputs only."""
    MOMENT = "moment"
    """The second moment E[x x^T] of the inputs, or E[g g^T] of the output gradients."""


LEFT_DENSE = (
    "a weight that no calibration token reached",
    "one that runs without gradient: no value model can tell its loss",
    "one whose values or statistics are NaN or infinite, or whose eigenproblem has no solution",
)
"""Weights that a low-rank method keeps dense."""

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
    claims: tuple[Claim, ...] = ()

    @property
    def minimises(self) -> str:
        """A norm of the error D = W - W'."""
        return f"|{_LEFT[self.left]}D{_RIGHT[self.right]}|"

    @property
    def leaves(self) -> tuple[str, ...]:
        """Weights that it keeps dense."""
        return LEFT_DENSE

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

    def input_scale(self, moments: "Moments") -> "Tensor":
        """[columns] scale of each input channel, above 0, where the inputs' metric is one."""
        from gacfx.compressors.lowrank import channel_scale

        return channel_scale(moments.input_abs_mean)

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
