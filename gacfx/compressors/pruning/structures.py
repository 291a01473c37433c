"""A structure under its statistics: what each size costs, and the weights that a size leaves.

found = Measured.of(structure, weights, moments, OutputWeight.MOMENT)
curve = structure_curve(found, "two-sided", ranks)      every width, ranks at some of them
left = found.left(kept units, kept heads)               module -> weight and moments
"""

# M outputs, N inputs, U units, H query heads of each

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from gacfx.compressors.curves import OutputWeight
from gacfx.compressors.pruning.closing import Closing, head_columns, unit_columns
from gacfx.compressors.pruning.elimination import order_heads, order_units
from gacfx.compressors.pruning.left import narrowed, shortened, sliced_only
from gacfx.core.statistics import Moments
from gacfx.core.structure_curves import (
    Losses,
    MemberSpans,
    Size,
    StructureCurve,
    StructureFacts,
    spans,
)
from gacfx.core.structures import Structure
from gacfx.errors import DecompositionFailed

RANKED = 24
"""Most sizes of a structure at which ranks of what is left are measured."""

Left = dict[str, tuple[Tensor, Moments]]
"""Module -> (weight, its moments), of what is left."""
Ranks = Callable[[str, Tensor, Moments], Losses]
"""(module, weight, moments) -> losses at every rank of a weight."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A structure, its weights and their moments on both sides."""

    structure: Structure
    weights: Mapping[str, Tensor]
    """Module -> dense weight, outputs first."""
    moments: Mapping[str, Moments]
    compensates: bool = True
    """Whether the inputs that stay of the closing weight take over what the others did."""

    def left(self, units: tuple[int, ...], heads: tuple[tuple[int, ...], ...]) -> Left:
        """What is left of each weight; the inputs that stay of the closing one may take over.

        Args:
            units: that stay.
            heads: of each of them, the query heads that stay.

        Raises:
            DecompositionFailed: the closing weight cannot be refitted.
        """
        found = dict(self.outputs_left(units, heads))
        closing = self.structure.closing
        assert closing.inputs is not None
        kept = closing.inputs.kept(units, heads)
        weight, moments = self.weights[closing.module], self.moments[closing.module]
        found[closing.module] = (
            narrowed(weight, moments, kept.tolist(), module=closing.module)
            if self.compensates
            else sliced_only(weight, moments, kept.tolist())
        )
        return found

    def outputs_left(
        self, units: tuple[int, ...], heads: tuple[tuple[int, ...], ...]
    ) -> Iterable[tuple[str, tuple[Tensor, Moments]]]:
        """What is left of each weight that makes the units."""
        for member in self.structure.members:
            if member.outputs is not None:
                kept = member.outputs.kept(units, heads).tolist()
                weight, moments = self.weights[member.module], self.moments[member.module]
                yield member.module, shortened(weight, moments, kept)


def structure_curve(
    found: Measured,
    value_model: str,
    output: OutputWeight,
    ranks: Ranks | None = None,
    *,
    skip_nats: float | None = None,
) -> StructureCurve:
    """The losses of every size, from one elimination of the closing weight.

    Args:
        found: the structure with its statistics.
        value_model: name of what the losses are.
        output: what stands in the place of the moment of the output gradients.
        ranks: losses of what is left of a weight at every rank; None to measure no ranks.
        skip_nats: rise without the whole block, as it was measured; None where it must stay.

    Raises:
        DecompositionFailed: something is not finite or cannot be inverted: the structure stays as
            it is, and the reason is recorded.
    """
    structure = found.structure
    closing = structure.closing
    assert closing.inputs is not None
    reader = Closing.of(
        found.weights[closing.module],
        found.moments[closing.module],
        output,
        module=closing.module,
    )
    units_UC = unit_columns(closing.inputs)
    order = order_units(reader, units_UC)
    heads: tuple[tuple[int, ...], ...] = ()
    losses = reader.width_curve(units_UC[order]).cpu().numpy()[None]
    if structure.heads > 1:
        columns_UHC = head_columns(closing.inputs)
        own_UH = order_heads(reader, columns_UHC)
        heads = tuple(tuple(row) for row in own_UH.tolist())
        losses = _head_losses(reader, columns_UHC, order, own_UH, losses[0])
    facts = replace(
        _facts(structure, value_model, order.tolist()), head_orders=heads, skip_nats=skip_nats
    )
    curve = StructureCurve(facts, _falling(losses))
    if ranks is None:
        return curve
    measured = {size: _ranks_at(found, curve, size, ranks) for size in ranked_sizes(structure)}
    return StructureCurve(facts, curve.losses, measured)


def scored_curve(structure: Structure, scores_U: Tensor, value_model: str) -> StructureCurve:
    """The curve of a structure that loses its units by their scores, query heads with them.

    Args:
        structure: that may be pruned.
        scores_U: of its units, at least 0; what a size loses is their sum. Of equal ones the first
            stays.
        value_model: name of what the scores are.

    Raises:
        PlanError: a score below 0 or not finite.
    """
    scores = scores_U.double().cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    lost = np.cumsum(scores[order][::-1])[::-1]
    facts = _facts(structure, value_model, order.tolist())
    return StructureCurve(facts, np.append(lost, 0.0)[None])


def refused_curve(structure: Structure, value_model: str, reason: str) -> StructureCurve:
    """The curve of a structure of which nothing is offered."""
    facts = replace(_facts(structure, value_model, members=()), refused=reason)
    return StructureCurve(facts, np.zeros((0, 0)))


def _facts(
    structure: Structure,
    value_model: str,
    order: Sequence[int] = (),
    members: tuple[MemberSpans, ...] | None = None,
) -> StructureFacts:
    """What is known of a structure beside its losses; those that are refused may have no spans."""
    return StructureFacts(
        name=structure.name,
        kind=structure.kind,
        units=structure.units,
        heads=structure.heads,
        members=spans(structure) if members is None else members,
        value_model=value_model,
        order=tuple(order),
    )


def ranked_sizes(structure: Structure) -> tuple[Size, ...]:
    """Sizes at which ranks of what is left are measured: at most :data:`RANKED`, evenly spread, in
    steps of a power of two."""
    step = 1
    while (structure.units - 1) // step * structure.heads > RANKED:
        step *= 2
    return tuple(
        (units, heads)
        for heads in range(1, structure.heads + 1)
        for units in range(step, structure.units + 1, step)
        if (units, heads) != (structure.units, structure.heads)
    )


def _ranks_at(
    found: Measured, curve: StructureCurve, size: Size, ranks: Ranks
) -> tuple[Losses, ...]:
    """For each member, the losses of what a size leaves of it; dense alone where that fails."""
    left = found.left(*curve.kept(size))
    made = []
    for member in found.structure.members:
        weight, moments = left[member.module]
        try:
            made.append(ranks(member.module, weight, moments))
        except DecompositionFailed:
            made.append(np.zeros(0))
    return tuple(made)


def _head_losses(
    reader: Closing, columns_UHC: Tensor, order: Tensor, own_UH: Tensor, whole: Losses
) -> Losses:
    """[H, U + 1] losses with the first units of ``order`` and the first heads of each; those of all
    heads are known."""
    units, count, _ = columns_UHC.shape
    losses = np.zeros((count, units + 1))
    losses[-1] = whole
    for heads in range(1, count):
        losses[heads - 1, 0] = whole[0]
        for kept in range(1, units + 1):
            chosen = order[:kept]
            columns = columns_UHC[chosen[:, None], own_UH[chosen, :heads]].flatten()
            losses[heads - 1, kept] = reader.loss_of(columns)
    return losses


def _falling(losses: Losses) -> Losses:
    """Without what rounding lets rise: more units never lose more."""
    return np.asarray(np.minimum.accumulate(losses, axis=1))
