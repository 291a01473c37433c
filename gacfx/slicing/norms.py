"""What a norm of the residual stream computes, by trying it: a module -> NormForm.

    RMSNorm      gain * x / rms(x)                  gain is the weight, or 1 + weight
    LayerNorm    gain * (x - mean(x)) / std(x) + shift

The class is tried with random parameters, so that those of the model cannot hide what it does.
"""

# H hidden size

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.errors import UnsupportedModel

CLOSE = 1e-4
"""Largest difference, as a share of the largest output: norms compute in float32."""
ROWS = 4
LARGE = 100.0
"""Size of the vectors that a norm is tried with: its epsilon does not count then."""


@dataclass(frozen=True, eq=False)
class NormForm:
    """A norm, taken apart."""

    gain_H: Tensor
    """float64; what its normalised input is multiplied by."""
    shift_H: Tensor | None
    """float64; what is added then. None for a norm that adds nothing."""
    centred: bool
    """The mean of the coordinates is taken off first."""
    neutral: float
    """Value of its weight that multiplies by one."""

    def neutral_(self, module: nn.Module, shift: float = 0.0) -> nn.Module:
        """The module with a gain of ones and a shift of one number, in place.

        Args:
            module: of the class that this form was found of, of any size.
            shift: put into its bias, if it has one.
        """
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.fill_(self.neutral if name == "weight" else shift)
        return module


def read_norm(module: nn.Module, name: str, size: int) -> NormForm:
    """The form of a norm.

    Args:
        module: it.
        name: of the module, for messages.
        size: coordinates of its input.

    Raises:
        UnsupportedModel: it is neither of the two, or has other parameters.
    """
    held = dict(module.named_parameters())
    if not held.keys() <= {"weight", "bias"} or "weight" not in held:
        raise UnsupportedModel(
            f"{name}: a norm with the parameters {', '.join(sorted(held))}; weight and bias are "
            "what can be folded"
        )
    tried: Any = copy.deepcopy(module).double()
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tried.parameters():
            parameter.copy_(torch.randn(size, generator=made, dtype=torch.float64))
        x_RH = LARGE * torch.randn(ROWS, size, generator=made, dtype=torch.float64)
        given_RH = tried(x_RH.to(next(module.parameters()).device)).double()
    bias = held.get("bias")
    shift = bias.detach().double() if bias is not None else None
    tried_shift = tried.bias.detach() if bias is not None else 0.0
    for centred in (False, True):
        for neutral in (1.0, 0.0):
            gain_H = tried.weight.detach() + (1.0 - neutral)
            expected_RH = gain_H * normalised(x_RH.to(gain_H.device), centred) + tried_shift
            if (given_RH - expected_RH).abs().max() <= CLOSE * expected_RH.abs().max():
                gain = held["weight"].detach().double() + (1.0 - neutral)
                return NormForm(gain, shift, centred, neutral)
    raise UnsupportedModel(
        f"{name}: {type(module).__name__} is no RMSNorm and no LayerNorm, by what it computes"
    )


def normalised(x_TH: Tensor, centred: bool) -> Tensor:
    """x over its root mean square, without an epsilon; less its mean first if ``centred``."""
    x_TH = x_TH - x_TH.mean(-1, keepdim=True) if centred else x_TH
    return x_TH / x_TH.square().mean(-1, keepdim=True).sqrt()
