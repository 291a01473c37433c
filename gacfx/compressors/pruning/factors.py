"""The tensors of a pruned structure: slices, the refit of its closing weight, ranks of the rest."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gacfx.compressors.protocol import Decomposition
from gacfx.compressors.pruning.structures import Measured
from gacfx.core.decision import Decision
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Choice
from gacfx.core.pruning import GONE, Heads, Skip, Sliced, Width
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed
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
        try:
            if not isinstance(part, Sliced):
                factors[member.module] = make_factors(whole[member.module], part, *shape, dtype)
                continue
            tensors = _tensors(part.rest, weight, moments, member.module, decompose, dtype)
        except DecompositionFailed as error:
            failed[member.module] = error.reason
            continue
        order = None
        if member.outputs is not None:
            kept = member.outputs.kept(units, inside)
            order = torch.from_numpy(kept).to(torch.int32) if len(kept) < member.rows else None
        factors[member.module] = Factors(part, *shape, tensors, order)
    return factors, failed


def _tensors(
    rest: Decision,
    weight: Tensor,
    moments: Moments,
    module: str,
    decompose: Decompose,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The tensors of what is left of one weight."""
    if rest.is_dense:
        made = weight.detach().to(dtype).contiguous()
        if not bool(torch.isfinite(made).all()):
            raise DecompositionFailed(module, f"the weight that takes over overflows {dtype}")
        return {"weight": made}
    source = decompose(weight, moments, module)
    return make_factors(source, rest, len(weight), weight.shape[1], dtype).tensors
