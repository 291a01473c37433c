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
    low, middle, high = (round(value, 3) for value in tenths(samples_us))
    return Times(middle, low, high, len(samples_us), how)


def tenths(values: Sequence[float]) -> tuple[float, float, float]:
    """10th percentile, median and 90th percentile of at least one value."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return ordered[cut], statistics.median(ordered), ordered[len(ordered) - 1 - cut]
