"""Coupled structures: weights that lose the same units together, or not at all.

    layers.0.mlp         352 channels: outputs of gate_proj and up_proj, inputs of down_proj
    layers.0.self_attn   4 key-value heads, 2 query heads of each: outputs of q, k, v, inputs of o

A unit is a channel of an MLP, or a key-value head of an attention with all its query heads; query
heads can also go one by one, equally many of each. Source of the idea: dependency groups of
LLM-Pruner (arXiv 2305.11627) and DepGraph (arXiv 2301.12900).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

StructureKind = Literal["width", "heads"]


@dataclass(frozen=True, eq=False)
class Positions:
    """What the positions along one axis of a weight belong to."""

    units: NDArray[np.int64]
    """[size] unit of each position; -1 where it belongs to none and always stays."""
    heads: NDArray[np.int64]
    """[size] query head, counted inside its unit; -1 where all heads of the unit share it."""

    def kept(
        self, units: Sequence[int], heads: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.int64]:
        """Positions that stay, rising.

        Args:
            units: that stay.
            heads: for each of them, which of its query heads stay; None for all.
        """
        stays = (self.units < 0) | np.isin(self.units, units)
        for unit, own in zip(units, heads or (), strict=False):
            lost = (self.units == unit) & (self.heads >= 0) & ~np.isin(self.heads, own)
            stays &= ~lost
        return np.flatnonzero(stays)


@dataclass(frozen=True, eq=False)
class Member:
    """One weight of a structure, outputs first whatever its own layout."""

    module: str
    rows: int
    columns: int
    outputs: Positions | None = None
    """Its rows, where they belong to units; biases of these outputs go with them."""
    inputs: Positions | None = None
    """Its columns, where they belong to units."""

    @property
    def closes(self) -> bool:
        """It reads the units: a down_proj or o_proj."""
        return self.inputs is not None


@dataclass(frozen=True, eq=False)
class Structure:
    """Weights that lose the same units together."""

    name: str
    """Module of the whole block: the MLP or the attention."""
    kind: StructureKind
    units: int
    """Channels, or key-value heads."""
    heads: int
    """Query heads of each key-value head; 1 for channels."""
    members: tuple[Member, ...]
    """In graph order."""
    refused: str = ""
    """Why nothing of it may be pruned; empty if it may."""
    keeps_block: str = ""
    """Why the whole block may not be taken out; empty if it may."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of its weights' modules, in graph order."""
        return tuple(member.module for member in self.members)

    @property
    def closing(self) -> Member:
        """The weight that reads the units; there is exactly one where nothing is refused."""
        return next(member for member in self.members if member.closes)

    @property
    def dense_params(self) -> int:
        """Parameters of all its weights."""
        return sum(member.rows * member.columns for member in self.members)
