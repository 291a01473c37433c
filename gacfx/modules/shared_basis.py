"""SharedBasisLinear: y = up(down(x)) + b, where several layers have one and the same ``down``.

The first layer holds the basis; the others have its linear as a child of theirs, so that there is
one parameter, whatever moves or trains it. A state dict names it once, by the layer that holds it:
then a file has it once, and no loader needs to know of it. Source: Basis Sharing (arXiv
2410.03765).
"""

# R rank, D input features, O output features

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.shared_basis import SharedBasis
from gacfx.errors import UnsupportedModel
from gacfx.graph.edit import Build
from gacfx.modules.carrier import Carrier, Source


class SharedBasisLinear(Carrier):
    """Two ordinary ``nn.Linear`` children, the first of which other layers may have as well."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        back: int = 0,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.rank, self.back = rank, back
        made: Any = {"device": device, "dtype": dtype}
        if not back:
            self.down = nn.Linear(in_features, rank, bias=False, **made)
        self.up = nn.Linear(rank, out_features, bias=bias, **made)

    @property
    def decision(self) -> SharedBasis:
        """The rank, and how many layers before the basis lies."""
        return SharedBasis(self.rank, self.back)

    @classmethod
    def bare(
        cls,
        decision: SharedBasis,
        rows: int,
        columns: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Two linears of the rank; one where the basis is still to be borrowed."""
        rank, back = decision.rank, decision.back
        return cls(columns, rows, rank, back, bias=False, device=device, dtype=dtype)

    def borrow(self, lender: nn.Module) -> None:
        """Compute with the basis of another layer from now on.

        Raises:
            UnsupportedModel: that layer holds no basis of this size.
        """
        found = getattr(lender, "down", None)
        shape = (self.rank, self.in_features)
        if not isinstance(found, nn.Linear) or tuple(found.weight.shape) != shape:
            raise UnsupportedModel(
                f"{self.decision}: the layer that should hold its basis is a "
                f"{type(lender).__name__}, which has none of {list(shape)}"
            )
        self.down = found

    @classmethod
    def bias_name(cls, rows: int, columns: int) -> str:
        """The second linear has it."""
        del rows, columns
        return "up.bias"

    @classmethod
    def make(cls, decision: SharedBasis, source: Source) -> dict[str, Tensor]:
        """The factors as they are: norms were balanced over all weights of the group."""
        up_OR, down_RD = source.pair(decision.rank)
        made = {"down": down_RD, "up": up_OR}
        return {name: made[name] for name in decision.tensors(len(up_OR), down_RD.shape[1])}

    @classmethod
    def reordered(
        cls, decision: SharedBasis, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """The second factor has the outputs, and is this layer's own."""
        return {**tensors, "up": tensors["up"][order_O]}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        out: Tensor = self.up(self.down(x))
        return out

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: SharedBasis,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """Two linears, as in ``forward``."""
        hidden = build.linear(x, tensors["down"], child="down")
        return build.linear(hidden, tensors["up"], bias, child="up")

    def state_dict(self, *args: Any, prefix: str = "", **more: Any) -> Any:
        """As every module gives it, without a basis that another layer holds."""
        found = super().state_dict(*args, prefix=prefix, **more)
        if self.back:
            for name in [name for name in found if name.startswith(f"{prefix}down.")]:
                del found[name]
        return found

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **more: Any
    ) -> None:
        # The layer that holds the basis has loaded it, or is about to.
        if self.back and "down" in self._modules:
            state_dict[f"{prefix}down.weight"] = self.down.weight
        super()._load_from_state_dict(state_dict, prefix, *others, **more)
