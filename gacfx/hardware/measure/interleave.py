"""Times of calls that are compared: in turn, A B A B, so that what slows the machine slows both.

A round is one sample of every call. A sample is several calls in a row where one of them is short,
and as many of every call, so that the clock's own time is small against each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Protocol

from gacfx.hardware.measure.clock import Call

WARM_UP = 3
"""Rounds before the first that counts, of one call each; the last says how long a sample is."""
WARM_UP_S = 1.0
"""No further round of warm-up begins after this time."""
SAMPLE_S = 2e-3
"""A sample lasts so long, by calls in a row ..."""
MOST_CALLS = 20
"""... of so many at most."""
MIN_RUNS = 6
"""Below this, no interval around a median has a confidence of 95 %."""
CONFIDENCE = 0.95


class OnceClock(Protocol):
    """What interleaving needs of a clock."""

    def once(self, call: Call) -> float:
        """Seconds of a call, until its work is done."""
        ...


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, until there are enough or the time is over."""

    runs: int = 40
    """Rounds, at most."""
    seconds: float = 5.0
    """No further round begins after this time, but for the first ``MIN_RUNS``."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Samples of calls that were made in turn."""

    samples_us: tuple[tuple[float, ...], ...]
    """One tuple for each call: microseconds of one call, round by round."""
    calls: int
    """Calls in a row of which a sample is the mean."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The median of a sample, and between what that of all possible samples lies."""

    median: float
    low: float
    high: float
    confidence: float
    """That it lies there; below ``CONFIDENCE`` where the samples are too few for it."""


def interleaved(calls: Sequence[Call], clock: OnceClock, effort: Effort) -> Rounds:
    """Samples of ``calls``, in turn.

    Args:
        calls: what is compared; each is warm after one call.
        clock: ``Clock``, or what tells time in its place.
        effort: how many rounds.
    """
    row = _calls_in_a_row(calls, clock)
    samples: list[list[float]] = [[] for _ in calls]
    spent_s = 0.0
    for run in range(effort.runs):
        if run >= MIN_RUNS and spent_s >= effort.seconds:
            break
        for call, found in zip(calls, samples, strict=True):
            took_s = clock.once(_repeated(call, row))
            spent_s += took_s
            found.append(took_s * 1e6 / row)
    return Rounds(tuple(map(tuple, samples)), row)


def median_interval(values: Sequence[float]) -> Interval:
    """The median with an interval by order statistics: nothing is assumed of the distribution.

    The interval is the narrowest pair of k-th smallest and k-th largest value whose confidence,
    1 - 2 P(Binomial(n, 1/2) < k), reaches ``CONFIDENCE``; smallest and largest where none does.
    """
    ordered = sorted(values)
    count = len(ordered)
    chosen, missed = 1, 2 * 0.5**count
    below = 0.5**count
    for k in range(2, (count + 1) // 2 + 1):
        below += comb(count, k - 1) * 0.5**count
        if 1 - 2 * below < CONFIDENCE:
            break
        chosen, missed = k, 2 * below
    return Interval(median(ordered), ordered[chosen - 1], ordered[-chosen], max(1 - missed, 0.0))


def _calls_in_a_row(calls: Sequence[Call], clock: OnceClock) -> int:
    spent_s, shortest_s = 0.0, 0.0
    for _ in range(WARM_UP):
        if spent_s >= WARM_UP_S:
            break
        times = [clock.once(call) for call in calls]
        spent_s, shortest_s = spent_s + sum(times), min(times)
    return max(1, min(MOST_CALLS, round(SAMPLE_S / max(shortest_s, 1e-9))))


def _repeated(call: Call, row: int) -> Call:
    if row == 1:
        return call

    def repeated() -> None:
        for _ in range(row):
            call()

    return repeated
