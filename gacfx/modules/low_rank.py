"""LowRankLinear: y = up(down(x)) + b, the factorized stand-in of one linear layer."""

# R rank, D input features, O output features

from typing import Self

import torch
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """Two ordinary ``nn.Linear`` children and a guard.

    The children are ordinary so that fx, Dynamo, exporters and other engines meet nothing new. The
    guard is an empty buffer under the name of the dense weight: a loader that knows nothing of
    gacfx finds a weight of the wrong shape and stops, where it would else fill the children with
    random numbers and only warn.
    """

    weight: Tensor
    """The guard: no elements, saved with the module."""

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
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.down = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.up = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", torch.empty(0, device=device, dtype=dtype))

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
        rank, in_features = down_RD.shape
        device, dtype = device or down_RD.device, dtype or down_RD.dtype
        layer = cls(in_features, len(up_OR), rank, bias is not None, device="meta")
        layer.down.weight = _copy(down_RD, device, dtype)
        layer.up.weight = _copy(up_OR, device, dtype)
        layer.up.register_parameter("bias", bias)
        layer.weight = torch.empty(0, device=device, dtype=dtype)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        out: Tensor = self.up(self.down(x))
        return out

    def extra_repr(self) -> str:
        """Sizes, as nn.Linear prints them."""
        bias = self.up.bias is not None
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"rank={self.rank}, bias={bias}"
        )


def _copy(factor: Tensor, device: torch.device | str, dtype: torch.dtype) -> nn.Parameter:
    # A copy even where nothing is converted: training the layer must not change the plan's factors.
    return nn.Parameter(factor.detach().to(device, dtype, copy=True).contiguous())
