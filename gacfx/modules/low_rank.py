"""LowRankLinear: y = up(down(x)) + b, a pair of factors in the place of one linear layer."""

# R rank, D input features, O output features

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.decision import LowRank
from gacfx.core.materialise import Factors
from gacfx.graph.edit import Build
from gacfx.modules.carrier import Carrier, Source


class LowRankLinear(Carrier):
    """Two ordinary ``nn.Linear`` children."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.rank = rank
        self.down = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.up = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    @classmethod
    def from_factors(
        cls,
        down_RD: Tensor,
        up_OR: Tensor,
        bias: nn.Parameter | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The layer with weight ``up_OR @ down_RD``.

        Args:
            down_RD: [rank, in_features]; copied.
            up_OR: [out_features, rank]; copied.
            bias: [out_features]; this very parameter becomes the bias.
            device: of the copies; default: that of ``down_RD``.
            dtype: of the copies; default: that of ``down_RD``.
        """
        return cls.holding(Factors.pair(down_RD, up_OR), bias, device=device, dtype=dtype)

    @property
    def decision(self) -> LowRank:
        """The rank."""
        return LowRank(self.rank)

    @classmethod
    def bare(
        cls,
        decision: LowRank,
        rows: int,
        columns: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Two linears of the rank."""
        return cls(columns, rows, decision.rank, bias=False, device=device, dtype=dtype)

    @classmethod
    def bias_name(cls, rows: int, columns: int) -> str:
        """The second linear has it."""
        del rows, columns
        return "up.bias"

    @classmethod
    def make(cls, decision: LowRank, source: Source) -> dict[str, Tensor]:
        """Both factors; those of one component have the same norm, so that neither leaves the range
        of half precision."""
        up_OR, down_RD = balanced(*source.pair(decision.rank))
        return {"down": down_RD, "up": up_OR}

    @classmethod
    def reordered(
        cls, decision: LowRank, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """The second factor has the outputs."""
        return {**tensors, "up": tensors["up"][order_O]}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        out: Tensor = self.up(self.down(x))
        return out

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: LowRank,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """Two linears, as in ``forward``."""
        hidden = build.linear(x, tensors["down"], child="down")
        return build.linear(hidden, tensors["up"], bias, child="up")


def balanced(up_OR: Tensor, down_RD: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, with equal norms of both factors of each component."""
    up_R, down_R = up_OR.norm(dim=0), down_RD.norm(dim=1)
    ratio_R = torch.where((up_R > 0) & (down_R > 0), down_R / up_R, 1.0).sqrt()
    return up_OR * ratio_R, down_RD / ratio_R[:, None]
