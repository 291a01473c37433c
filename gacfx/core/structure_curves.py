"""Curves of coupled structures: the estimated rise of the loss for every size of each of them.

Losses are nats per token, with the units that stay taking over what the others did as well as they
can. What is left of each weight may then have a rank: those curves are kept for some sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gacfx.core.structures import Positions, Structure, StructureKind
from gacfx.errors import PlanError

Losses = NDArray[np.float64]
Size = tuple[int, int]
"""(units that stay, query heads of each that stay; 1 for channels)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Positions along one axis of a weight: as many as a size leaves of them."""

    fixed: int
    """Those that belong to no unit."""
    unit: int = 0
    """Those of each unit that its heads share."""
    head: int = 0
    """Those of each head of each unit."""

    def at(self, size: Size) -> int:
        """Positions that stay at a size."""
        units, heads = size
        return self.fixed + units * (self.unit + heads * self.head)

    @staticmethod
    def of(positions: Positions | None, length: int) -> "Span":
        """That of an axis of ``length`` positions.

        Raises:
            PlanError: units or heads of different length.
        """
        if positions is None:
            return Span(length)
        units, heads = positions.units, positions.heads
        shared = np.bincount(units[(units >= 0) & (heads < 0)])
        _, own = np.unique(np.stack([units, heads], 1)[heads >= 0], axis=0, return_counts=True)
        inside = np.bincount(heads[heads >= 0])
        span = Span(
            fixed=int((units < 0).sum()),
            unit=int(shared[0]) if len(shared) else 0,
            head=int(own[0]) if len(own) else 0,
        )
        count = int(units.max()) + 1
        alike = all(len(set(each.tolist())) <= 1 for each in (shared, own))
        if span.at((count, len(inside))) != length or not alike:
            raise PlanError("units of a structure must have equally many positions each")
        return span


@dataclass(frozen=True, slots=True)
class MemberSpans:
    """One weight of a structure: how its shape follows from the size."""

    module: str
    outputs: Span
    inputs: Span

    def at(self, size: Size) -> tuple[int, int]:
        """(rows, columns) at a size."""
        return self.outputs.at(size), self.inputs.at(size)


@dataclass(frozen=True, slots=True)
class StructureFacts:
    """Everything of a :class:`StructureCurve` but the losses; JSON in a file of curves."""

    name: str
    kind: StructureKind
    units: int
    heads: int
    """Query heads of each unit; 1 for channels."""
    members: tuple[MemberSpans, ...]
    """In the order of the graph."""
    value_model: str
    order: tuple[int, ...] = ()
    """Units, those most worth keeping first; empty where nothing can be pruned."""
    head_orders: tuple[tuple[int, ...], ...] = ()
    """For each unit its query heads, those most worth keeping first; empty where a unit has one,
    or where all of them stay with it."""
    skip_nats: float | None = None
    """Rise without the whole block; None where it must stay."""
    refused: str = ""
    """Why nothing of it may be pruned."""

    @property
    def counts(self) -> range:
        """Query heads of each unit that may stay."""
        return range(1 if self.head_orders else self.heads, self.heads + 1)

    @property
    def inside(self) -> tuple[tuple[int, ...], ...]:
        """For each unit its query heads, those most worth keeping first."""
        return self.head_orders or (tuple(range(self.heads)),) * self.units


@dataclass(frozen=True, eq=False)
class StructureCurve:
    """Loss against size for one structure.

    Raises:
        PlanError: losses that are no such curve, or an order that names no unit or one twice.
    """

    facts: StructureFacts
    losses: Losses
    """[counts, units + 1]: entry (i, n) is the rise with n units and ``facts.counts[i]`` query
    heads of each."""
    ranks: Mapping[Size, tuple[Losses, ...]] = field(default_factory=dict)
    """Size -> for each member the rise of every rank 0 .. min(rows, columns) of what is left; empty
    where that could not be measured, so that it stays dense."""

    def __post_init__(self) -> None:
        facts, where = self.facts, self.facts.name
        if facts.refused:
            return
        if sorted(facts.order) != list(range(facts.units)):
            raise PlanError(f"{where}: the order of its {facts.units} units must name each once")
        inside = facts.inside
        wanted = list(range(facts.heads))
        if len(inside) != facts.units or any(sorted(heads) != wanted for heads in inside):
            raise PlanError(f"{where}: each of its units has {facts.heads} heads, named once each")
        if self.losses.shape != (len(facts.counts), facts.units + 1):
            raise PlanError(f"{where}: losses of shape {self.losses.shape}")
        ranked = (rank for own in self.ranks.values() for rank in own if len(rank))
        _check(where, [*self.losses, *ranked])
        for size, own in self.ranks.items():
            shapes = [member.at(size) for member in facts.members]
            counts = [min(shape) + 1 for shape in shapes]
            if [len(rank) or count for rank, count in zip(own, counts, strict=True)] != counts:
                raise PlanError(f"{where}: ranks at size {size} are not those of {shapes}")

    @property
    def name(self) -> str:
        """Of the structure."""
        return self.facts.name

    def loss(self, size: Size) -> float:
        """Rise at a size with everything else dense."""
        units, heads = size
        return float(self.losses[self.facts.counts.index(heads), units])

    def kept(self, size: Size) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """(units that stay, rising; for each of them the query heads that stay, rising)."""
        units, heads = size
        own = tuple(sorted(self.facts.order[:units]))
        return own, tuple(tuple(sorted(self.facts.inside[unit][:heads])) for unit in own)


def spans(structure: Structure) -> tuple[MemberSpans, ...]:
    """How the shapes of its weights follow from the size of a structure.

    Raises:
        PlanError: units or heads of different length.
    """
    return tuple(
        MemberSpans(m.module, Span.of(m.outputs, m.rows), Span.of(m.inputs, m.columns))
        for m in structure.members
    )


def _check(where: str, curves: list[Losses]) -> None:
    for losses in curves:
        if not np.isfinite(losses).all() or (np.diff(losses) > 0).any() or losses[-1] < 0:
            raise PlanError(f"{where}: a curve must be finite, at least 0, and never rise")
