"""GroupedLowRankLinear: y_g = up_g h_g, where h = down x holds the latents of all groups.

    h    [.., G R]     = down x
    y_g  [.., O / G]   = up_g h[.., g R : (g + 1) R]        one batched product
    y    [.., O]       = y_0 .. y_G-1 side by side, + b

The latents h of keys and values are what Palu caches (arXiv 2407.21118); this layer makes the
outputs of them at once.
"""

# G groups, R rank of each, D input features, O output features, P = O / G

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.errors import DecompositionFailed
from gacfx.graph.edit import Build
from gacfx.graph.ops import aten
from gacfx.modules.carrier import Carrier, Source
from gacfx.modules.low_rank import balanced

EACH_GROUP = "...gr,gpr->...gp"
"""The second product, as einsum has it; torch computes it as one bmm."""


class GroupedLowRankLinear(Carrier):
    """An ordinary ``nn.Linear`` child for the latents, and one tensor for all second factors."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        decision: GroupedLowRank,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        made: Any = {"device": device, "dtype": dtype}
        self.groups, self.group_rank = decision.groups, decision.group_rank
        self.down = nn.Linear(in_features, decision.rank, bias=False, **made)
        up = (self.groups, out_features // self.groups, self.group_rank)
        self.up = nn.Parameter(torch.empty(up, **made))
        nn.init.normal_(self.up, std=self.group_rank**-0.5)
        own = nn.Parameter(torch.zeros(out_features, **made)) if bias else None
        self.register_parameter("bias", own)

    @property
    def decision(self) -> GroupedLowRank:
        """Groups, and the rank of each."""
        return GroupedLowRank(self.groups, self.group_rank)

    @classmethod
    def bare(
        cls,
        decision: GroupedLowRank,
        rows: int,
        columns: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """A linear of all latents, and the factors of each group."""
        return cls(columns, rows, decision, bias=False, device=device, dtype=dtype)

    @classmethod
    def make(cls, decision: GroupedLowRank, source: Source) -> dict[str, Tensor]:
        """Both factors of each group; those of one component have the same norm.

        Raises:
            DecompositionFailed: a component of the weight reaches over several groups, or one group
                has more than its rank: a method that knows no groups made them.
        """
        up_OC, down_CD = balanced(*source.pair(decision.rank))
        groups, rank = decision.groups, decision.group_rank
        parts_GPC = up_OC.unflatten(0, (groups, -1))
        # A component of one group is zero in all others.
        used_CG = (parts_GPC != 0).any(1).T
        if bool((used_CG.sum(1) > 1).any()) or bool((used_CG.sum(0) > rank).any()):
            reason = f"{decision}: its components are not those of groups; take method 'palu'"
            raise DecompositionFailed(source.module, reason)
        up_GPR = up_OC.new_zeros(groups, parts_GPC.shape[1], rank)
        down_GRD = down_CD.new_zeros(groups, rank, down_CD.shape[1])
        for group in range(groups):
            at = used_CG[:, group].nonzero().flatten()
            up_GPR[group, :, : len(at)] = parts_GPC[group][:, at]
            down_GRD[group, : len(at)] = down_CD[at]
        return {"down": down_GRD.flatten(0, 1), "up": up_GPR}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        latents = self.down(x).unflatten(-1, (self.groups, self.group_rank))
        out: Tensor = torch.einsum(EACH_GROUP, latents, self.up)
        if self.groups > 1:
            # flatten would make the same copy, where nobody sees it in a graph
            out = out.clone(memory_format=torch.contiguous_format)
        out = out.flatten(-2)
        return out if self.bias is None else out + self.bias

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: GroupedLowRank,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """The operators of ``forward``."""
        down, up = tensors["down"], tensors["up"]
        latents = build.linear(x, down, child="down")
        sizes = [decision.groups, decision.group_rank]
        latents = build.call(aten.unflatten.int, (latents, -1, sizes))
        out = build.call(aten.einsum.default, (EACH_GROUP, [latents, up]))
        if decision.groups > 1:
            out = build.call(aten.clone.default, (out,), memory_format=torch.contiguous_format)
        out = build.call(aten.flatten.using_ints, (out, -2))
        return out if bias is None else build.call(aten.add.Tensor, (out, bias))
