"""LowRankLinear: y = up(down(x)) + b, the factorized stand-in of one linear layer."""

# R rank, D input features, O output features

from typing import Any, Self

import torch
from torch import Tensor, nn

NOTICE = "weight_IMPORT_GACFX_BEFORE_LOADING"
"""Name of an empty buffer; the first checkpoints of gacfx do not have it."""


class LowRankLinear(nn.Module):
    """Two ordinary ``nn.Linear`` children, a guard and a notice.

    The children are ordinary so that fx, Dynamo, exporters and other engines meet nothing new. The
    guard is an empty buffer under the name of the dense weight: a loader that knows nothing of
    gacfx finds a weight of the wrong shape and stops, where it would else fill the children with
    random numbers and only warn. The notice is an empty buffer whose name such a loader prints.
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
        for name in ("weight", NOTICE):
            self.register_buffer(name, torch.empty(0, device=device, dtype=dtype))

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
        for name, buffer in layer.named_buffers():
            setattr(layer, name, torch.empty_like(buffer, device=device, dtype=dtype))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        out: Tensor = self.up(self.down(x))
        return out

    def extra_repr(self) -> str:
        """Sizes, as nn.Linear prints them, and where adapters go: PEFT refuses with this text."""
        bias = self.up.bias is not None
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"rank={self.rank}, bias={bias}, "
            'for LoRA take target_modules=["up", "down"] or "all-linear"'
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **more: Any
    ) -> None:
        # The first checkpoints have no notice.
        if NOTICE in self._buffers:
            state_dict.setdefault(prefix + NOTICE, self._buffers[NOTICE])
        super()._load_from_state_dict(state_dict, prefix, *others, **more)


def _copy(factor: Tensor, device: torch.device | str, dtype: torch.dtype) -> nn.Parameter:
    # A copy even where nothing is converted: training the layer must not change the plan's factors.
    return nn.Parameter(factor.detach().to(device, dtype, copy=True).contiguous())
