"""Times of one call as a value: needs no torch, so that records are read anywhere."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """Times of one call, in microseconds."""

    median_us: float
    p10_us: float
    p90_us: float
    runs: int
    how: str
    """``cold``, ``graph``, ``loop``, ``host``, or ``clock``: by a ``Clock``."""

    @property
    def spread(self) -> float:
        """90th over 10th percentile; 1 is no spread."""
        return self.p90_us / self.p10_us if self.p10_us else 1.0


def summary(samples_us: Sequence[float], how: str) -> Times:
    """Median, 10th and 90th percentile of samples in microseconds."""
    ordered = sorted(samples_us)
    low, high = len(ordered) // 10, len(ordered) - 1 - len(ordered) // 10
    return Times(
        median_us=round(statistics.median(ordered), 3),
        p10_us=round(ordered[low], 3),
        p90_us=round(ordered[high], 3),
        runs=len(ordered),
        how=how,
    )
