"""What any score of pruning has to beat: the size of the weights, and chance.

    METHODS.find("magnitude:norm=l1,scope=global")      METHODS.find("random:seed=3")

Both prune all layers unless their settings say otherwise, need no gradients, and refit nothing.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gacfx.compressors.pruning.pruner import RANDOM as BY_CHANCE
from gacfx.compressors.pruning.pruner import Pruner, check_known, random_scores
from gacfx.core.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.pruning.scores import Evidence
    from gacfx.core.structures import Structure

NORMS = ("l1", "l2")


@dataclass(frozen=True, kw_only=True)
class Magnitude(Pruner):
    """Units with small weights go, those of all members together.

    Raises:
        PipelineError: an option that there is not.
    """

    name: str = field(default="magnitude", kw_only=False)
    norm: str = setting("l2", "sums of |W| or of W^2", known=NORMS)
    source: str = "structured magnitude pruning, after Li et al. 2017 (arXiv 1608.08710)"

    def __post_init__(self) -> None:
        check_known(self.name, "norm", self.norm, NORMS)
        super().__post_init__()

    @property
    def scored_by(self) -> str:
        """The sum of one of the norms."""
        return f"magnitude-{self.norm}"


@dataclass(frozen=True, kw_only=True)
class Random(Pruner):
    """Units go by chance: the same ones for the same seed.

    Raises:
        PipelineError: an option that there is not.
    """

    name: str = field(default="random", kw_only=False)
    seed: int = setting(0, "of the random numbers")
    source: str = "chance, the floor of every comparison"

    @property
    def scored_by(self) -> str:
        """Nothing in the model."""
        return BY_CHANCE

    def scores(self, structure: "Structure", known: "Evidence") -> "Tensor":
        """[units] random numbers, float64."""
        del known
        return random_scores(structure, self.seed)


MAGNITUDE = Magnitude()
RANDOM = Random()
