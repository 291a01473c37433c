"""Measure cell by cell: the model and the dense one in turn, in one process."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

import gacfx
from gacfx.bench.need import too_large
from gacfx.bench.result import Bench, Cell, Machine, measured
from gacfx.bench.setting import Setting
from gacfx.bench.sides import Side, check_alike, side_of
from gacfx.bench.steps import Step, make_step
from gacfx.bench.why import StepClock, why_slower
from gacfx.core.asked import check_module
from gacfx.core.sites import Workload
from gacfx.errors import BenchError
from gacfx.hardware.measure.clock import Clock
from gacfx.hardware.measure.device import name_of
from gacfx.hardware.measure.interleave import interleaved
from gacfx.hardware.measure.memory import is_out_of_memory, release

Progress = Callable[[str, int, int], None]
ONE_LINE = 200
"""Characters of an error that are kept: its first line, cut here."""


def bench(
    model: Any,
    dense: Any = None,
    *,
    setting: Setting | None = None,
    names: Sequence[str] = ("model", "dense"),
    threads: int | None = None,
    clock: StepClock | None = None,
    progress: Progress = lambda *_: None,
) -> Bench:
    """Times of ``model`` where it lies, and how many times faster it is than ``dense``.

    Args:
        model: causal language model of transformers, for example a compressed one.
        dense: the one to compare with: same architecture, vocabulary and device.
        setting: what to measure; None: prefill and decode, eager, of batches 1, 8 and 64.
        names: what the two are called in the result.
        threads: of torch on the CPU, while it measures; None leaves them as they are.
        clock: what tells time; None: the machine's.
        progress: called with (stage, done, total).

    Raises:
        BenchError: models that cannot be compared, or a setting that does not fit them.
        UnsupportedModel: what is no model.
    """
    setting = setting or Setting()
    if not isinstance(setting, Setting):
        raise BenchError(f"setting {setting!r}: give gacfx.bench.Setting(...)")
    models = [model] if dense is None else [model, dense]
    for one in models:
        check_module(one)
    if len(names) < len(models):
        raise BenchError(f"names {names!r}: give one for each of {len(models)} models")
    check_threads(threads)
    check_alike(models)
    works = setting.workloads(models)
    sides = [side_of(one, name) for one, name in zip(models, names, strict=False)]
    device = next(model.parameters()).device
    with _threads(threads), torch.no_grad():
        work = _Work(models, sides, setting, clock or Clock(device))
        cells = []
        for number, one in enumerate(works):
            progress("cells", number, len(works))
            cells.append(work.cell(one))
        progress("cells", len(works), len(works))
        machine = describe(device)
    return Bench(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        setting=replace(setting, seq=works[0].seq),
        model=sides[0],
        dense=sides[1] if dense is not None else None,
        cells=tuple(cells),
    )


def check_threads(number: int | None) -> None:
    """Nothing when torch can work with so many threads; far more would end the process.

    Raises:
        BenchError: it is no number of at least 1, or above 4 for each processor.
    """
    most = 4 * (os.cpu_count() or 1)
    if number is not None and (type(number) is not int or not 1 <= number <= most):
        raise BenchError(f"threads {number!r}: give a whole number, 1 to {most} on this machine")


def describe(device: torch.device) -> Machine:
    """This machine, as it measures now."""
    versions = {
        "python": platform.python_version(),
        "gacfx": gacfx.__version__,
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
    }
    return Machine(device.type, name_of(device), torch.get_num_threads(), versions)


@dataclass(frozen=True, slots=True)
class _Work:
    """What all cells share."""

    models: Sequence[Any]
    sides: Sequence[Side]
    setting: Setting
    clock: StepClock

    def cell(self, work: Workload) -> Cell:
        """One cell; what goes wrong in it is its result."""
        device = self.clock.device
        if reason := too_large(self.models, work, device):
            return Cell(work, "skipped", reason)
        try:
            return self._measure(work)
        except BenchError as error:
            return Cell(work, "failed", str(error))
        except Exception as error:  # models raise nearly everything; another cell may go
            if is_out_of_memory(error):
                return Cell(work, "out of memory")
            how = "torch.compile: " if work.execution == "compiled" else ""
            return Cell(work, "failed", how + _first_line(error))
        finally:
            if work.execution == "compiled":
                torch.compiler.reset()
            release(device)

    def _measure(self, work: Workload) -> Cell:
        steps = [make_step(model, work, self.setting.seed) for model in self.models]
        first_s = [self.clock.once(partial(check_finite, step)) for step in steps]
        rounds = interleaved(steps, self.clock, self.setting.effort)
        for step in steps:
            check_finite(step)
        cell = measured(work, rounds, first_s if work.execution == "compiled" else ())
        if len(self.sides) < 2:
            return cell
        dtype = next(self.models[0].parameters()).dtype
        why = why_slower(cell, steps[0], (self.sides[0], self.sides[1]), self.clock, dtype)
        return replace(cell, why=why)


def check_finite(step: Step) -> None:
    """Nothing when every logit of a step is a finite number.

    Raises:
        BenchError: some are not, so the time is of no use to anyone.
    """
    if not bool(torch.isfinite(step()).all()):
        raise BenchError("the logits are not finite; try another dtype")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:ONE_LINE]


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Inside, torch works with so many threads on the CPU; afterwards as before."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
