"""Decomposition of a weight in groups of outputs: the best rank of each group, for every rank.

W is cut into G groups of P outputs. Component i G + g is the i-th of group g, zero in all others,
so that the first R G components are the best R of each group, and what the value models say of
nested pairs holds.
"""

# M outputs, N inputs, G groups, P = M / G outputs of each

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gacfx.compressors.lowrank import WeightedSvd, checked_components
from gacfx.compressors.values import VALUES, Losses
from gacfx.core.curves import Curve
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed

if TYPE_CHECKING:
    from gacfx.compressors.palu import Palu


@dataclass(frozen=True, eq=False)
class GroupedSvd(WeightedSvd):
    """A weight of no more outputs than inputs, cut into components of groups."""

    @property
    def groups(self) -> int:
        """Groups of outputs."""
        method: Palu = self.method  # type: ignore[assignment]
        return method.groups

    def decision(self, rank: int) -> GroupedLowRank:
        """Groups of equal rank; what a rank has beyond a multiple of the groups is left out."""
        return GroupedLowRank(self.groups, rank // self.groups)

    def curve(self, value_model: str = "two-sided", measured: Losses | None = None) -> Curve:
        """What every number of components costs, those of all groups together.

        Raises:
            PipelineError: no value model has this name.
            DecompositionFailed: the curve is not finite, or counts parameters as pairs have them.
        """
        if VALUES.find(value_model).by_proxy:
            reason = f"value model {value_model!r} counts the parameters of a pair, not of groups"
            raise DecompositionFailed(self.module, reason)
        return replace(super().curve(value_model, measured), groups=self.groups)


def decompose(weight_MN: Tensor, moments: Moments, method: "Palu", module: str = "") -> GroupedSvd:
    """The components of each group that lose least of E |(W - W') x|^2.

    Args:
        weight_MN: any floating dtype; its outputs are the groups, one after the other.
        moments: of this weight.
        method: with the groups.
        module: name for messages and curves.

    Raises:
        DecompositionFailed: NaN, no convergence, no statistics, or more outputs than inputs, whose
            statistics cannot tell what an error costs.
    """
    if moments.wide:
        reason = (
            f"it has more outputs than inputs ({moments.rows} and {moments.columns}), and the "
            "moment of its output gradients is not gathered"
        )
        raise DecompositionFailed(module, reason)
    inner_MM, outer_MM = checked_components(
        weight_MN, moments, lambda: _components(moments.projected_moment, method.groups), module
    )
    return GroupedSvd(module, method, weight_MN.detach(), moments, inner_MM, outer_MM)


def _components(energy_MM: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(inner, its transpose): orthonormal eigenvectors of each group's block, best first.

    Args:
        energy_MM: W A W^T.
        groups: that its rows and columns are cut into.
    """
    blocks_GPP = energy_MM.unflatten(0, (groups, -1)).unflatten(-1, (groups, -1))
    blocks_GPP = blocks_GPP.diagonal(dim1=0, dim2=2).movedim(-1, 0)
    basis_GPP = torch.linalg.eigh((blocks_GPP + blocks_GPP.mT) / 2).eigenvectors.flip(-1)
    size = basis_GPP.shape[1]
    inner_GPPG = energy_MM.new_zeros(groups, size, size, groups)
    each = torch.arange(groups, device=energy_MM.device)
    inner_GPPG[each, :, :, each] = basis_GPP
    inner_MM = inner_GPPG.reshape(groups * size, size * groups)
    return inner_MM, inner_MM.T
