"""LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), block-wise: whole channels and key-value heads go.

    register(LlmPruner("llm-pruner-global", score="taylor-vector", scope="global"))

It scores units by first or second derivatives of the loss on text, and takes the lowest-scored
share of each MLP and attention but those of the first three layers. Nothing takes over what a unit
did: the published method trains adapters afterwards. A key-value head goes with all its query
heads, and sums count every row and column once.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from gacfx.compressors.protocol import Compressor, Decomposition, Statistic
from gacfx.compressors.pruning.own_sizes import Scope, Units, own_sizes
from gacfx.core.structure_curves import StructureCurve
from gacfx.errors import DecompositionFailed, PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.pruning.scores import Evidence
    from gacfx.core.statistics import Moments
    from gacfx.core.structures import Structure

RANDOM = "random"
SCORES = {
    "taylor-first": "sum |W g|",
    "taylor-second": "sum |W f W|",
    "taylor-mix": "sum |W g - W f W / 2|",
    "taylor-vector": "sum |sum W g|",
    "magnitude-l1": "sum |W|",
    "magnitude-l2": "sum W^2",
    RANDOM: "random numbers",
}
"""Name -> what is summed over the rows and columns of a unit; g is the gradient of the loss, f its
mean square. They are param_first, param_second, param_mix, vectorize, l1 and l2 of the code."""


@dataclass(frozen=True)
class LlmPruner(Compressor):
    """LLM-Pruner with its options.

    Raises:
        PipelineError: an option that there is not.
    """

    name: str = "llm-pruner"
    score: str = "taylor-first"
    """One of :data:`SCORES`."""
    scope: Scope = "local"
    """Every structure loses the same share of its units, or the lowest scores per parameter go
    wherever they are."""
    first: int = 3
    """First layer that is pruned."""
    end: int | None = None
    """Layer before which pruning ends; None for all. The published code has 31 for 32 layers."""
    compensates: bool = False
    """Whether the inputs that stay of o_proj and down_proj are refitted."""
    seed: int = 0
    """Of random scores."""
    source: str = "Ma et al. 2023, block-wise, layers from the fourth on, no tuning"
    kinds: tuple[str, ...] = ("width", "heads")

    def __post_init__(self) -> None:
        for option, known in (("score", [*SCORES]), ("scope", [*get_args(Scope)])):
            if (given := getattr(self, option)) not in known:
                raise PipelineError(
                    f"{self.name}: no {option} {given!r}; known: {', '.join(known)}"
                )

    @property
    def minimises(self) -> str:
        """The score of what goes."""
        return SCORES[self.score]

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Gradients, for scores that have any."""
        return (Statistic.WEIGHT_GRADIENTS,) if self.score.startswith("taylor") else ()

    @property
    def proxy(self) -> str:
        """The score."""
        return self.score

    def decompose(self, weight_MN: "Tensor", moments: "Moments", module: str = "") -> Decomposition:
        """Raises DecompositionFailed: it makes no ranks."""
        raise DecompositionFailed(module, f"{self.name} makes no ranks")

    def scores(self, structure: "Structure", known: "Evidence") -> "Tensor":
        """[units] scores, float64, larger ones are worth more.

        Raises:
            CalibrationError: it needs gradients, and they were not gathered.
            DecompositionFailed: they are all zero or not finite.
        """
        from gacfx.compressors.pruning.scores import unit_scores  # torch

        if self.score != RANDOM:
            return unit_scores(self.score, structure, known)
        import torch

        # Its own numbers for each structure, whichever others there are.
        mixed = hashlib.sha256(f"{self.seed} {structure.name}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(mixed[:7], "big"))
        return torch.rand(structure.units, generator=draw, dtype=torch.float64)

    def own_sizes(self, curves: Sequence[StructureCurve], gone: int) -> dict[str, int]:
        """Structure -> units that stay when ``gone`` parameters shall go; others are left alone.

        Raises:
            InfeasibleBudget: its layers have not so many.
        """
        units = [Units.of(curve) for curve in curves if self._prunes(curve)]
        return own_sizes(units, gone, self.scope)

    def _prunes(self, curve: StructureCurve) -> bool:
        """Whether a structure is in one of its layers and can lose something."""
        number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", curve.name)
        layer = int(number[1]) if number else self.first
        inside = self.first <= layer and (self.end is None or layer < self.end)
        return inside and not curve.facts.refused


LLM_PRUNER = LlmPruner()
