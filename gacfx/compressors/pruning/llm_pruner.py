"""LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), block-wise: whole channels and key-value heads go.

    METHODS.find("llm-pruner:score=taylor-vector,scope=global")

It scores units by first or second derivatives of the loss on text, and takes the lowest-scored
share of each MLP and attention but those of the first three layers. Nothing takes over what a unit
did: the published method trains adapters afterwards. A key-value head goes with all its query
heads, and sums count every row and column once.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gacfx.compressors.protocol import SIDE_BY_SIDE, Claim
from gacfx.compressors.pruning.pruner import RANDOM, SCORES, Pruner, check_known, random_scores
from gacfx.core.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.pruning.scores import Evidence
    from gacfx.core.structures import Structure


@dataclass(frozen=True, kw_only=True)
class LlmPruner(Pruner):
    """LLM-Pruner with its options.

    Raises:
        PipelineError: an option that there is not.
    """

    name: str = field(default="llm-pruner", kw_only=False)
    score: str = setting("taylor-first", "what a unit is worth", known=SCORES)
    """One of :data:`SCORES`."""
    first: int = setting(3, "first layer that is pruned")
    """First layer that is pruned; the published code ends before 31 of 32 layers."""
    seed: int = setting(0, "of random scores")
    source: str = "Ma et al. 2023, block-wise, layers from the fourth on, no tuning"
    claims: tuple[Claim, ...] = (
        Claim(
            "derivatives of the loss choose better than magnitude or chance",
            SIDE_BY_SIDE,
            "so at 20, 30 and 40 % removed, with first=0",
        ),
    )

    def __post_init__(self) -> None:
        check_known(self.name, "score", self.score, [*SCORES])
        super().__post_init__()

    @property
    def scored_by(self) -> str:
        """Its setting."""
        return self.score

    def scores(self, structure: "Structure", known: "Evidence") -> "Tensor":
        """[units] scores, float64, larger ones are worth more.

        Raises:
            CalibrationError: it needs gradients, and they were not gathered.
            DecompositionFailed: they are all zero or not finite.
        """
        if self.score == RANDOM:
            return random_scores(structure, self.seed)
        return super().scores(structure, known)


LLM_PRUNER = LlmPruner()
