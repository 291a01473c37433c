"""PivotInOrderLinear: a product of rank R whose inputs come with its R pivots first.

    hidden = x[:R] + coefficients x[R:]          y = product hidden

It is the second form of :mod:`gacfx.modules.pivot` without the gather.
"""

# R rank, D input features, O output features

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.decision import PivotInOrder
from gacfx.errors import DecompositionFailed
from gacfx.graph.edit import Build
from gacfx.graph.ops import aten
from gacfx.modules.carrier import Carrier, Source


class PivotInOrderLinear(Carrier):
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
        made: Any = {"device": device, "dtype": dtype}
        self.coefficients = nn.Linear(in_features - rank, rank, bias=False, **made)
        self.product = nn.Linear(rank, out_features, bias=bias, **made)

    @property
    def decision(self) -> PivotInOrder:
        """The rank."""
        return PivotInOrder(self.rank)

    @classmethod
    def bare(
        cls,
        decision: PivotInOrder,
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
        """The last product adds it."""
        del rows, columns
        return "product.bias"

    @classmethod
    def make(cls, decision: PivotInOrder, source: Source) -> dict[str, Tensor]:
        """Nothing: the weight alone does not say in which order its inputs come.

        Raises:
            DecompositionFailed: always; :func:`gacfx.modules.in_order.in_order` makes them.
        """
        raise DecompositionFailed(
            source.module, f"{decision}: is made of a pivot, together with the layers before it"
        )

    @classmethod
    def reordered(
        cls, decision: PivotInOrder, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """The product has the outputs."""
        return {**tensors, "product": tensors["product"][order_O]}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        pivots, rest = x.split_with_sizes([self.rank, self.in_features - self.rank], -1)
        out: Tensor = self.product(pivots + self.coefficients(rest))
        return out

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: PivotInOrder,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """The operators of ``forward``."""
        sizes = [decision.rank, columns - decision.rank]
        parts = build.call(aten.split_with_sizes.default, (x, sizes, -1))
        pivots, rest = (build.item(parts, at) for at in (0, 1))
        more = build.linear(rest, tensors["coefficients"], child="coefficients")
        hidden = build.call(aten.add.Tensor, (pivots, more))
        return build.linear(hidden, tensors["product"], bias, child="product")
