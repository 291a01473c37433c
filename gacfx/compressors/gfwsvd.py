"""gfwsvd: factors in the Kronecker-factored Fisher metric, |G^1/2 D A^1/2|.

Both moments may be shrunk towards a multiple of the identity with the same trace, as covariances of
few samples are (Ledoit and Wolf 2004). gacfx forms and inverts moments in float64 and does not need
that to be safe; what it costs or brings is measured by ``python -m benchmarks.outliers``.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gacfx.compressors.metrics import Method, Metric
from gacfx.core.settings import setting
from gacfx.errors import PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.lowrank import WeightedSvd
    from gacfx.core.statistics import Moments


@dataclass(frozen=True)
class Gfwsvd(Method):
    """The metric of both moments, with its settings.

    Raises:
        PipelineError: a setting out of its range.
    """

    shrink_inputs: float = setting(0.0, "share of the identity in A, from 0 to 1")
    shrink_gradients: float = setting(0.0, "share of the identity in G, from 0 to 1")

    def __post_init__(self) -> None:
        for option in ("shrink_inputs", "shrink_gradients"):
            if not 0 <= (given := getattr(self, option)) <= 1:
                written = option.replace("_", "-")
                raise PipelineError(f"{self.name}: {written} {given} is not between 0 and 1")

    def decompose(self, weight_MN: "Tensor", moments: "Moments", module: str = "") -> "WeightedSvd":
        """Components of a weight, with curves of the same moments."""
        return super().decompose(weight_MN, self._shrunk(weight_MN, moments), module)

    def restored(
        self,
        weight_MN: "Tensor",
        moments: "Moments",
        module: str,
        components: "tuple[Tensor, Tensor]",
    ) -> "WeightedSvd":
        """The same decomposition, without an eigenproblem."""
        return super().restored(weight_MN, self._shrunk(weight_MN, moments), module, components)

    def _shrunk(self, weight_MN: "Tensor", moments: "Moments") -> "Moments":
        """The moments with their shares of the identity."""
        a, g = self.shrink_inputs, self.shrink_gradients
        if not (a or g) or moments.problem():
            return moments
        wide, side_SS = moments.wide, moments.side_moment
        weight_LS = (weight_MN if wide else weight_MN.T).to(side_SS)
        means = float(moments.input_square_mean.mean()), moments.grad_square_mean
        (short, short_mean), (long, long_mean) = (
            ((a, means[0]), (g, means[1])) if wide else ((g, means[1]), (a, means[0]))
        )
        shrunk_SS = (1 - short) * side_SS
        shrunk_SS.diagonal().add_(short * short_mean)
        projected_SS = (1 - long) * moments.projected_moment
        projected_SS += long * long_mean * (weight_LS.T @ weight_LS)
        return replace(moments, side_moment=shrunk_SS, projected_moment=projected_SS)


GFWSVD = Gfwsvd("gfwsvd", Metric.MOMENT, Metric.MOMENT, "K-FAC metric, Martens and Grosse 2015")
