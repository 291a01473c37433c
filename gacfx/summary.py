"""Summary of a compression: what it costs, what it keeps, and what the GPU is expected to do."""

from dataclasses import asdict, dataclass
from typing import Any

from gacfx.core.plan import Plan
from gacfx.core.rise import Rise
from gacfx.hardware.gemm import aligned
from gacfx.hardware.profile import Profile
from gacfx.inspection import Inspection
from gacfx.speedup import Speedup


@dataclass(frozen=True, slots=True)
class Side:
    """One model in the comparison: dense, upstream or gacfx."""

    name: str
    params: int
    """Of the whole model."""
    targeted_params: int
    aligned_dims: int
    """Changed dimensions that the GPU's kernels like."""
    changed_dims: int
    tiers: dict[str, float]
    """Tier -> share of the FLOPs."""
    forecast_us: float
    """One step of the workload: all matmuls and attention, and what decisions copy."""
    nats_per_token: float
    """On the text that the summary names."""
    speedup: Speedup | None = None
    """Against the dense model; None for that itself."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Dense and compressed, side by side, under one workload on one GPU."""

    gpu: str
    workload: str
    forecast: str
    """Where the times come from: ``rule-based`` or ``vendor figures only``."""
    text: str
    """What the losses were measured on."""
    sides: tuple[Side, ...]
    rise: Rise | None = None
    """Promised and measured rise of the loss; None where nothing was tried."""
    unused_weights: tuple[str, ...] = ()
    """Weights of the source that the model does not use; they are not in the result."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        sides = [
            {**asdict(side), "speedup": side.speedup and side.speedup.to_dict()}
            for side in self.sides
        ]
        rise = None if self.rise is None else self.rise.to_dict()
        return {**asdict(self), "sides": sides, "rise": rise}


def make_side(
    name: str,
    seen: Inspection,
    nats: float,
    plan: Plan | None,
    targeted: int,
    speedup: Speedup | None = None,
) -> Side:
    """One side from its inspection and, for a compressed one, its plan and its speed."""
    sizes = plan.sizes if plan else ()
    dtype = seen.rows[0].dtype if seen.rows else "bf16"
    good = sum(is_aligned(size, dtype, seen.profile) for size in sizes)
    return Side(
        name=name,
        params=seen.params,
        targeted_params=plan.kept_params if plan else targeted,
        aligned_dims=good,
        changed_dims=len(sizes),
        tiers={str(t): share for t, (_, share) in seen.tiers().items()},
        forecast_us=seen.latency_us,
        nats_per_token=nats,
        speedup=speedup,
    )


def is_aligned(size: int, dtype: str, profile: Profile) -> bool:
    """The size fits the GPU's kernels in the model's dtype and in half precision."""
    return aligned(size, dtype, profile) and aligned(size, "bf16", profile)
