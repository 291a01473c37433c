"""ASVD (Yuan et al. 2023, arXiv 2312.05821): inputs scaled by their activations before the SVD.

    W diag(s) ~ rank r,   s = (mean |x|)^alpha  or  (max |x|)^alpha of each input channel

Its own ranks come from the loss of the model with one weight replaced at a time
(:mod:`gacfx.compressors.strs`): six forward passes for each weight, over a small part of the text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import (
    SIDE_BY_SIDE,
    UNIFORM,
    AllocationInputs,
    Claim,
    Decomposition,
    Statistic,
)
from gacfx.compressors.strs import SHARES, ranks_of, strs
from gacfx.core.settings import setting
from gacfx.errors import CalibrationError, PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.core.statistics import Moments

SCALES = {"abs-mean": Statistic.INPUT_ABS_MEAN, "abs-max": Statistic.INPUT_ABS_MAX}
ALLOCATIONS = {
    "strs": "cuts a list of losses with one weight replaced at .4 .5 ... .9 of its parameters",
    "stable-rank": "cuts a list of -(|W|_F / |W|_2) share^0.1 of each weight at .4 .5 ... .9",
    "uniform": UNIFORM,
}
"""How ranks are chosen -> the same in words."""

Sensitivities = Sequence[float]


@dataclass(frozen=True)
class Asvd(Method):
    """ASVD with its settings.

    Raises:
        PipelineError: a setting out of its range.
    """

    alpha: float = setting(0.5, "power of the channel scale, from 0 (plain SVD) to 1")
    scale: str = setting("abs-mean", "what of |x| the scale is made of", known=SCALES)
    allocation: str = setting("strs", "how it chooses ranks by itself", known=ALLOCATIONS)
    tokens: int = setting(2048, "of text, at least, that strs reads for each loss")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise PipelineError(f"{self.name}: alpha {self.alpha} is not between 0 and 1")
        if self.tokens < 1:
            raise PipelineError(f"{self.name}: tokens {self.tokens}: at least 1")
        for option, known in (("scale", SCALES), ("allocation", ALLOCATIONS)):
            if (given := getattr(self, option)) not in known:
                raise PipelineError(
                    f"{self.name}: no {option} {given!r}; known: {', '.join(known)}"
                )

    @property
    def minimises(self) -> str:
        """A norm of the error in scaled inputs."""
        power = "1/2" if self.alpha == 0.5 else f"{self.alpha:g}"
        return f"|D S^{power}|"

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The one that its scale is made of."""
        return (SCALES[self.scale],)

    @property
    def allocates(self) -> str:
        """By a table, or uniformly."""
        return ALLOCATIONS[self.allocation]

    def input_scale(self, moments: "Moments") -> "Tensor":
        """[columns] scale of each input channel, above 0.

        Raises:
            CalibrationError: statistics that were kept without the largest inputs.
        """
        from gacfx.compressors.lowrank import channel_scale

        if self.scale == "abs-mean":
            return channel_scale(moments.input_abs_mean, self.alpha)
        if moments.input_abs_max is None:
            raise CalibrationError(
                f"{self.name}: these statistics were kept by a gacfx that did not gather the "
                "largest inputs; calibrate again in a new work folder, or take scale=abs-mean"
            )
        return channel_scale(moments.input_abs_max, self.alpha)

    def allocate(
        self,
        shapes: Mapping[str, tuple[int, int]],
        ratio: float | str,
        inputs: AllocationInputs | None = None,
    ) -> dict[str, int | None]:
        """Its own ranks.

        Args:
            shapes: module -> (rows, columns).
            ratio: share to remove, 0..1.
            inputs: with a measure of the loss for ``strs``, and decompositions otherwise.

        Raises:
            PipelineError: a table is to be made, and there are no inputs.
            InfeasibleBudget: less than the smallest shares may remain.
        """
        if self.allocation == "uniform":
            return super().allocate(shapes, ratio, inputs)
        if inputs is None:
            raise PipelineError(f"{self.name}: its own ranks need a model and its statistics")
        sensitivities = self._measured if self.allocation == "strs" else _stable_ranks
        return strs(shapes, _table(shapes, inputs, sensitivities), inputs.limit_params)

    def _measured(self, module: str, inputs: AllocationInputs) -> Sensitivities:
        """Loss of the model at each share of one weight."""
        found = inputs.decompositions[module]

        def losses() -> list[float]:
            ranks = ranks_of(*found.moments.shape)
            return [
                inputs.measure({} if rank is None else {module: rank}, self.tokens)
                for rank in ranks
            ]

        return inputs.remember(module, losses)


def _table(
    shapes: Mapping[str, tuple[int, int]],
    inputs: AllocationInputs,
    sensitivities: Callable[[str, AllocationInputs], Sensitivities],
) -> dict[str, Sensitivities]:
    """Module -> sensitivities, of those that could be decomposed and would save something."""
    table = dict[str, Sensitivities]()
    names = [
        name for name in shapes if name in inputs.decompositions and any(ranks_of(*shapes[name]))
    ]
    total = len(names) * len(SHARES)
    for number, name in enumerate(names):
        inputs.progress(number * len(SHARES), total)
        table[name] = sensitivities(name, inputs)
    inputs.progress(total, total)
    return table


def _stable_ranks(module: str, inputs: AllocationInputs) -> Sensitivities:
    """-(|W|_F / |W|_2) share^0.1: ASVD's cheap stand-in for a loss."""
    root = stable_rank(inputs.decompositions[module]) ** 0.5
    return [-root * float(share) ** 0.1 for share in SHARES]


def stable_rank(found: Decomposition) -> float:
    """|W|_F^2 / |W|_2^2 of a weight, 1 .. its rank; in float64."""
    import torch

    weight_MN = found.weight_MN.double()
    weight_LS = weight_MN if len(weight_MN) >= weight_MN.shape[1] else weight_MN.T
    energies_S = torch.linalg.eigvalsh(weight_LS.T @ weight_LS).clamp_min(0)
    return float(energies_S.sum() / energies_S[-1])


ASVD = Asvd(
    "asvd",
    Metric.IDENTITY,
    Metric.CHANNEL_SCALE,
    "Yuan et al. 2023 (arXiv 2312.05821)",
    (
        Claim(
            "lower perplexity than plain SVD with as many parameters",
            SIDE_BY_SIDE,
            "so at 20, 30 and 40 % removed",
        ),
    ),
)
