"""The tensors of a pruned structure: slices, the refit of its closing weight, ranks of the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.compressors.protocol import Decomposition
from gacfx.compressors.pruning.structures import Measured
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Choice
from gacfx.core.pruning import GONE, Heads, Skip, Sliced, Width
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed
from gacfx.modules.carrier import Source
from gacfx.modules.make import make_factors

Decompose = Callable[[Tensor, Moments, str], Decomposition]
"""(weight, moments, module) -> the weight as a method sees it."""


def structure_factors(
    found: Measured,
    choice: Choice,
    decompose: Decompose,
    whole: Mapping[str, Decomposition],
) -> tuple[FactorSet, dict[str, str]]:
    """(factors of every weight that changes, module -> why it cannot have what was chosen).

    Args:
        found: the structure with its statistics.
        choice: what the plan chose for it.
        decompose: of the method whose factors are taken.
        whole: decompositions of the weights as they are, for those that lose nothing.

    Raises:
        DecompositionFailed: the closing weight cannot be refitted.
    """
    decision = choice.decision
    if isinstance(decision, Skip):
        return {w.module: Factors(GONE, w.rows, w.columns, {}) for w in choice.weights}, {}
    assert isinstance(decision, Width | Heads)
    structure = found.structure
    inside = decision.heads if isinstance(decision, Heads) else None
    units = decision.kept if isinstance(decision, Width) else decision.groups
    left = found.left(units, inside or ((0,),) * len(units))
    factors, failed = FactorSet(), dict[str, str]()
    for member in structure.members:
        part, (weight, moments) = choice.decisions[member.module], left[member.module]
        shape, dtype = (member.rows, member.columns), found.weights[member.module].dtype
        if part.is_dense:
            continue
        order = None
        if member.outputs is not None:
            kept = member.outputs.kept(units, inside)
            order = torch.from_numpy(kept).to(torch.int32) if len(kept) < member.rows else None
        source: Source
        try:
            if not isinstance(part, Sliced):
                source = whole[member.module]
            elif part.rest.is_dense:
                source = _Left(member.module, weight)
            else:
                source = decompose(weight, moments, member.module)
            factors[member.module] = make_factors(source, part, *shape, dtype, order)
        except DecompositionFailed as error:
            failed[member.module] = error.reason
    return factors, failed


@dataclass(frozen=True, eq=False)
class _Left:
    """What is left of a weight that stays dense."""

    module: str
    weight_MN: Tensor

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """Raises TypeError: nobody asks a dense rest for a rank."""
        raise TypeError(f"{self.module}: what is left of it stays dense, and has no rank {rank}")
