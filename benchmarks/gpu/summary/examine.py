"""What a reader should look at twice: wide spreads, outliers of a sweep, calls that raised."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.summary.calls import LABELS, Call, Sweep
from benchmarks.gpu.summary.models import PART, cell, title
from benchmarks.gpu.summary.records import Entry, Records
from benchmarks.gpu.summary.tables import Table, number, table
from gacfx.hardware.measure.journal import key

MAX_SPREAD = 1.5
"""90th over 10th percentile."""
MAX_STEP = 3.0
"""Time over the median of the four nearest sizes."""
NEAR = 2
"""Neighbours on either side."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One measurement to look at."""

    what: str
    why: str


def doubts(records: Records, found: Iterable[Call], swept: Iterable[Sweep]) -> list[Doubt]:
    """Wide spreads first, then sizes that stand out of their sweep."""
    wide = [
        Doubt(f"{call.label}: {call.text()}, {name}", f"p90 is {times.spread:.2f} of p10")
        for call in found
        for name, times in (("cold", call.cold), ("warm", call.warm))
        if times is not None and times.spread > MAX_SPREAD
    ]
    wide += [
        Doubt(_model_text(entry), f"p90 is {times.spread:.2f} of p10")
        for entry in records.results(PART)
        if (times := entry.times("times")) is not None and times.spread > MAX_SPREAD
    ]
    return wide + [doubt for sweep in swept for doubt in _outliers(sweep)]


def doubts_table(found: Sequence[Doubt]) -> Table:
    """One row for each doubt."""
    return table(("examine", "why"), ((doubt.what, doubt.why) for doubt in found))


def errors_table(failed: Iterable[Entry]) -> Table:
    """Every item that raised in all runs, with what it said."""
    return table(("part", "item", "error"), ((e.part, _text(e), f"`{e.error}`") for e in failed))


def _outliers(sweep: Sweep) -> list[Doubt]:
    timed = [(call, call.cold.median_us) for _, call in sweep.points if call.cold is not None]
    found = []
    for i, (call, us) in enumerate(timed):
        near = timed[max(0, i - NEAR) : i] + timed[i + 1 : i + 1 + NEAR]
        trend = statistics.median(other for _, other in near) if near else us
        if us > MAX_STEP * trend:
            why = f"{number(us)} us, {us / trend:.1f} times its neighbours"
            found.append(Doubt(f"{sweep.label}: {call.text()}", why))
    return found


def _text(entry: Entry) -> str:
    if entry.part in LABELS:
        label = str(entry.item[LABELS[entry.part]])
        return f"{label}: {Call(label, entry.item['op'], entry.item['case'], entry).text()}"
    if entry.part == PART:
        return _model_text(entry)
    return key("", entry.item).strip()


def _model_text(entry: Entry) -> str:
    variant, kind = title(str(entry.item.get("variant", ""))), entry.item.get("kind", "")
    if {"phase", "mode", "batch", "seq", "layers"} <= entry.item.keys():
        return f"{variant}, {kind}: {cell(entry.item).text()}"
    return key("", entry.item).strip()
