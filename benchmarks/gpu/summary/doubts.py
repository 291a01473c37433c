"""What makes a machine's times doubtful: each sentence says what, and how much."""

from collections.abc import Iterable, Iterator

from benchmarks.gpu.summary.plans import PART, place
from benchmarks.gpu.summary.records import Entry, Records
from benchmarks.gpu.tables import number
from gacfx.hardware.measure.journal import Record

MAX_DRIFT = 0.05
"""A canary that differs by more within a run says that the clocks did not hold."""
MAX_MODE_ERROR = 0.05
"""Two orders of summation in bf16; benchmarks/gpu/llama/checks.py."""
MAX_SPREAD = 1.5
"""90th over 10th percentile."""
THROTTLE = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}
"""Reasons that slow a card down; nvml.h, nvmlClocksEventReasons. Idle and set clocks do not."""


def doubts(records: Records) -> list[str]:
    """Everything that a reader must know before the times."""
    return [*_runs(records), *_clocks(records.clocks), *_models(records), *_spreads(records)]


def throttled(clock: Record) -> list[str]:
    """Names of the active reasons that slow the card down."""
    value = clock.get("throttle")
    if value is None:
        return []
    try:
        mask = int(value, 16) if isinstance(value, str) else int(value)
    except ValueError:
        return [str(value)]
    return [name for bit, name in THROTTLE.items() if mask & bit]


def _runs(records: Records) -> Iterator[str]:
    if records.dry:
        yield "A rehearsal in tiny sizes on a CPU: no time on this page is a measurement."
    if len({str(run.get("machine", {}).get("name")) for run in records.runs}) > 1:
        yield "The runs come from different devices; only the newest is named here."


def _clocks(clocks: tuple[Record, ...]) -> Iterator[str]:
    slow = [reasons for clock in clocks if (reasons := throttled(clock))]
    if slow:
        names = ", ".join(sorted({name for reasons in slow for name in reasons}))
        yield f"The card held back in {len(slow)} of {len(clocks)} samples: {names}."
    for run, drift in sorted(_drifts(clocks).items()):
        if drift > MAX_DRIFT:
            yield (
                f"In run {run} the same matmul took up to {1 + drift:.2f} times its shortest time: "
                "smaller differences between items mean nothing."
            )


def _models(records: Records) -> Iterator[str]:
    for entry in records.results(PART):
        error, kind = entry.number("relative_error"), entry.item["kind"]
        if kind == "check" and not _holds(error, entry.number("limit")):
            what = (entry.result or {}).get("what")
            yield f"A check failed: {what} (relative error {number(error)})."
        if kind == "time" and (error or 0.0) > MAX_MODE_ERROR:
            yield (
                f"{entry.item['variant']}, {place(entry.item).text()}: logits differ from those of "
                f"the plain call by {number(error)}."
            )


def _spreads(records: Records) -> Iterator[str]:
    measured = [entry for entry in records.entries if entry.result is not None]
    wide = sum(_spread(entry) > MAX_SPREAD for entry in measured)
    if wide:
        yield f"Of {len(measured)} items {wide} have a p90 above {MAX_SPREAD:g} times p10."


def _spread(entry: Entry) -> float:
    found = (entry.times(name) for name in ("cold", "warm", "times"))
    return max((times.spread for times in found if times is not None), default=1.0)


def _holds(error: float | None, limit: float | None) -> bool:
    return error is not None and limit is not None and error <= limit


def _drifts(clocks: Iterable[Record]) -> dict[int, float]:
    """Run -> longest over shortest canary, less 1."""
    by_run: dict[int, list[float]] = {}
    for clock in clocks:
        if clock.get("canary_us"):
            by_run.setdefault(int(clock["run"]), []).append(float(clock["canary_us"]))
    return {run: max(found) / min(found) - 1 for run, found in by_run.items()}
