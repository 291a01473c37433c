"""A single call that is ready to run, with what it needs at least and how to check it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Operands are drawn and on the device; ``call`` runs the operation once."""

    call: Callable[[], Tensor]
    flops: int
    """Multiply-adds counted as two; half of the square where attention is causal."""
    bytes: int
    """Each operand and the result moved once."""
    dtype: str
    """Which measured rate bounds it."""
    error: Callable[[Tensor], float]
    """Relative error of a result against float64: ||y - y64|| / ||y64|| on a part of it."""
    choice: int | str | None = None
    """The backend that torch says it takes, or its error as text; None where there is no choice."""


def normal(*shape: int, dtype: str, device: torch.device) -> Tensor:
    """Standard normal numbers; never zeros, which run faster than data does."""
    return torch.randn(*shape, device=device, dtype=torch.float32).to(DTYPES[dtype])


def relative_error(found: Tensor, expected_64: Tensor) -> float:
    """||found - expected|| / ||expected||, in float64; NaN if any number is not finite."""
    difference = found.double() - expected_64
    return float(difference.norm() / expected_64.norm())
