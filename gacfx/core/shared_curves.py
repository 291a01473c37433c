"""Curves of shared bases: the estimated rise of the loss for every rank that weights have together.

Nats per token; the sum over the weights of a group, each with its own inputs and gradients.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.core.names import is_group_name, printable
from gacfx.core.shared_basis import SharedBasis, basis_group, layers_before
from gacfx.errors import PlanError


@dataclass(frozen=True, slots=True)
class SharedFacts:
    """Everything of a :class:`SharedCurve` but the losses; JSON in a file of curves."""

    name: str
    """Of the group, see :func:`gacfx.core.shared_basis.basis_group`."""
    members: tuple[str, ...]
    """Modules of its weights, in the order of their layers."""
    rows: int
    """Outputs of each weight."""
    columns: int
    """Inputs of each weight."""
    value_model: str

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of all weights, one above the other."""
        return len(self.members) * self.rows, self.columns


@dataclass(frozen=True, eq=False)
class SharedCurve:
    """Loss against rank for the weights of one group.

    Raises:
        PlanError: losses that are no such curve.
    """

    facts: SharedFacts
    losses: NDArray[np.float64]
    """[min(members x rows, columns) + 1]: entry r is the rise at rank r; not increasing."""

    def __post_init__(self) -> None:
        expected = (min(self.facts.shape) + 1,)
        if self.losses.shape != expected:
            raise PlanError(
                f"{self.name}: losses of shape {self.losses.shape}; its weights have {expected[0]} "
                "together, one for each rank from 0 on"
            )
        rises = (np.diff(self.losses) > 0).any()
        if not np.isfinite(self.losses).all() or rises or self.losses[-1] < 0:
            raise PlanError(f"{self.name}: a curve must be finite, at least 0, and never rise")

    @property
    def name(self) -> str:
        """Of the group."""
        return self.facts.name


def shared_key(name: str) -> str:
    """Name of the losses of a group among those of a file."""
    return f"{name}:shared"


def check_shared(
    groups: Iterable[SharedFacts], shapes: Mapping[str, tuple[int, int]], taken: Iterable[str]
) -> None:
    """Nothing when groups are of known weights of one shape, layer after layer, each in one group.

    Args:
        groups: in any order.
        shapes: module -> (rows, columns) of all weights.
        taken: names of structures.

    Raises:
        PlanError: names the first group that is none.
    """
    names, free = set(taken), dict(shapes)
    for group in groups:
        shown = printable(group.name)
        if not is_group_name(group.name) or group.name in names:
            what = "has two curves" if group.name in names else "is no name of a group"
            raise PlanError(f"{shown}: {what}")
        names.add(group.name)
        if problem := SharedBasis(1).misfit(len(group.members)):
            raise PlanError(f"{shown}: {problem}")
        for at, module in enumerate(group.members):
            if layers_before(module, at) != group.members[0]:
                raise PlanError(f"{shown}: {printable(module)} is not {at} layers after the first")
            if free.pop(module, None) != (group.rows, group.columns):
                raise PlanError(
                    f"{shown}: its {printable(module)} of {group.rows} x {group.columns} is no "
                    "weight of the curves, or is in two groups"
                )
        if group.name != basis_group(group.members):
            raise PlanError(f"{shown}: is not what such a group is called")
