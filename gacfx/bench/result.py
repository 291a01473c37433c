"""What was measured, as values that can be printed, compared and written as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gacfx.bench.setting import Setting
from gacfx.bench.sides import Side
from gacfx.core.sites import Workload
from gacfx.hardware.measure.interleave import CONFIDENCE, Interval, Rounds, median_interval
from gacfx.hardware.measure.times import Times, summary

FORMAT, VERSION = "gacfx-bench", 1
Status = Literal["measured", "out of memory", "skipped", "failed"]
Verdict = Literal["faster", "slower", "unclear"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload, of the model and, where it is compared, of the dense one."""

    work: Workload
    status: Status
    reason: str = ""
    """Why it was not measured."""
    model: Times | None = None
    """Of one step."""
    dense: Times | None = None
    ratio: Interval | None = None
    """Dense time over the model's, round by round: above 1 the model is faster."""
    calls: int = 0
    """Steps in a row of which a sample is the mean."""
    compile_s: tuple[float, ...] = ()
    """First call of each compiled model, the dense one last."""
    why: str = ""
    """Where the model is slower, what can be said of it from figures."""

    @property
    def verdict(self) -> Verdict | None:
        """What the ratio says; ``unclear`` where its interval holds 1, or is of too few rounds."""
        if self.ratio is None:
            return None
        if self.ratio.confidence < CONFIDENCE or self.ratio.low <= 1 <= self.ratio.high:
            return "unclear"
        return "faster" if self.ratio.low > 1 else "slower"

    def tokens_per_s(self, times: Times | None) -> float | None:
        """Tokens that pass in a second, of all sequences together."""
        return None if times is None else self.work.new_tokens / times.median_us * 1e6

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **asdict(self.work),
            "status": self.status,
            "reason": self.reason,
            "model": self._figures(self.model),
            "dense": self._figures(self.dense),
            "ratio": None if self.ratio is None else asdict(self.ratio),
            "verdict": self.verdict,
            "calls_per_sample": self.calls,
            "compile_s": list(self.compile_s),
            "why": self.why,
        }

    def _figures(self, times: Times | None) -> dict[str, Any] | None:
        if times is None:
            return None
        return {**asdict(times), "tokens_per_s": self.tokens_per_s(times)}


def measured(work: Workload, rounds: Rounds, compile_s: Sequence[float] = ()) -> Cell:
    """A cell from the samples of the model and, if there are any, of the dense one."""
    model, dense = (*(summary(samples, "clock") for samples in rounds.samples_us), None)[:2]
    ratio = None
    if dense is not None:
        ours, theirs = rounds.samples_us
        ratio = median_interval([b / a for a, b in zip(ours, theirs, strict=True)])
    return Cell(
        work,
        "measured",
        model=model,
        dense=dense,
        ratio=ratio,
        calls=rounds.calls,
        compile_s=tuple(round(s, 2) for s in compile_s),
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """What it was measured on, and with what."""

    device: str
    """``cpu`` or ``cuda``."""
    name: str
    threads: int
    """Of torch on the CPU."""
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Bench:
    """All cells, with everything needed to measure them again."""

    date: str
    """UTC, ISO 8601."""
    machine: Machine
    setting: Setting
    model: Side
    dense: Side | None
    cells: tuple[Cell, ...]
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "command": self.command,
            "date": self.date,
            "machine": asdict(self.machine),
            "setting": asdict(self.setting),
            "model": self.model.to_dict(),
            "dense": None if self.dense is None else self.dense.to_dict(),
            "cells": [cell.to_dict() for cell in self.cells],
        }
