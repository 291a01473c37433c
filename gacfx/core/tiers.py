"""Tiers: which class of kernel a site gets on a GPU, and why."""

from dataclasses import dataclass
from typing import Literal

COPY = "copy"
"""Class of the kernels that multiply nothing. There is no better one, and none that is worse."""


@dataclass(frozen=True, slots=True)
class TierPrediction:
    """Predicted kernel class of one site on one profile under one workload."""

    tier: int
    """1 is best; 3 is a slow path; 4 is an error (the call is illegal)."""
    kernel: str
    """Class of kernel: native, align2, align1, gemv, cudnn, flash.t128, efficient, math, ..."""
    reason: str = ""
    """Why not better, for example ``N=1107 %8==3``; empty for tier 1."""
    source: Literal["rule", "measured"] = "rule"
