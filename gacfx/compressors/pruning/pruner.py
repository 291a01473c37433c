"""What methods that prune have in common: which layers, equal shares or one threshold, no ranks.

Units of MLPs and attentions go by a score of each, lowest first; a key-value head goes with all its
query heads. Whatever a method scores by, its own sizes come from
:mod:`gacfx.compressors.pruning.own_sizes`.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from gacfx.compressors.protocol import Claim, Compressor, Decomposition, Statistic
from gacfx.compressors.pruning.own_sizes import Scope, Units, own_sizes
from gacfx.core.settings import setting
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
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, kw_only=True)
class Pruner(Compressor):
    """A method that prunes units by a score.

    Raises:
        PipelineError: an option that there is not.
    """

    scope: Scope = setting(
        "local", "equal shares of all structures, or one threshold per parameter", known=SCOPES
    )
    """Every structure loses the same share of its units, or the lowest scores per parameter go
    wherever they are."""
    first: int = setting(0, "first layer that is pruned")
    end: int | None = setting(None, "layer before which pruning ends; none for all", kind=int)
    """Layer before which pruning ends; None for all."""
    compensates: bool = setting(False, "refit o_proj and down_proj for what is left")
    """Whether the inputs that stay of o_proj and down_proj are refitted."""
    source: str
    kinds: tuple[str, ...] = ("width", "heads")
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        check_known(self.name, "scope", self.scope, SCOPES)
        if self.first < 0 or (self.end is not None and self.end <= self.first):
            end = "" if self.end is None else f", end {self.end}"
            raise PipelineError(
                f"{self.name}: first {self.first}{end}: layers count from 0, and end is above first"
            )

    @property
    @abstractmethod
    def scored_by(self) -> str:
        """One of :data:`SCORES`."""

    @property
    def minimises(self) -> str:
        """The score of what goes."""
        return SCORES[self.scored_by]

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Gradients, for scores that have any."""
        return (Statistic.WEIGHT_GRADIENTS,) if self.scored_by.startswith("taylor") else ()

    @property
    def proxy(self) -> str:
        """The score."""
        return self.scored_by

    @property
    def allocates(self) -> str:
        """Equal shares, or a threshold."""
        if self.scope == "local":
            return "the same share of the units of every MLP and attention goes"
        return "the lowest scores per parameter go, wherever they are"

    @property
    def leaves(self) -> tuple[str, ...]:
        """Ranks, layers that are left out, and what cannot be pruned."""
        end = "" if self.end is None else f", and from {self.end} on"
        layers = f"layers before {self.first}{end}" if self.first or end else ""
        return (
            "single weights: it makes no ranks",
            "structures that `gacfx inspect MODEL --groups` refuses, with the reason",
            *((layers,) if layers else ()),
        )

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

        return unit_scores(self.scored_by, structure, known)

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


def check_known(method: str, option: str, given: str, known: Sequence[str]) -> None:
    """Nothing for a value that there is.

    Raises:
        PipelineError: it is none; lists those that there are.
    """
    if given not in known:
        raise PipelineError(f"{method}: no {option} {given!r}; known: {', '.join(known)}")


def random_scores(structure: "Structure", seed: int) -> "Tensor":
    """[units] numbers in [0, 1), float64: of each structure its own, whichever others there are."""
    import torch

    mixed = hashlib.sha256(f"{seed} {structure.name}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(mixed[:7], "big"))
    return torch.rand(structure.units, generator=draw, dtype=torch.float64)
