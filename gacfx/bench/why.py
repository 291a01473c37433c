"""Why a compressed model may be slower, where figures say so: its pairs are more launches.

A low-rank layer is two matmuls. Each call costs time of the host however small it is, and where a
step has little else to do, that decides. The cost is measured here, on the smallest layer there is.
"""

from statistics import median
from typing import Protocol

import torch
from torch import nn

from gacfx.bench.result import Cell
from gacfx.bench.sides import Side
from gacfx.bench.steps import Step
from gacfx.hardware.measure.clock import Call

CALLS, SAMPLES = 50, 9
"""Small calls in a sample, and samples."""
ISSUES = 5
"""Steps whose issuing is timed."""
HOST_BOUND = 0.9
"""Share of a step's time that the host takes to issue it, from which on the GPU waits."""
EXPLAINED = 0.5
"""Share of the loss that the calls must account for before they are named."""


class StepClock(Protocol):
    """What is needed of a clock; see ``gacfx.hardware.measure.clock``."""

    @property
    def device(self) -> torch.device:
        """Where the calls run."""
        ...

    def once(self, call: Call) -> float:
        """Seconds of a call, until its work is done."""
        ...

    def issue(self, call: Call) -> float:
        """Seconds until the call returns."""
        ...


def why_slower(
    cell: Cell, step: Step, sides: tuple[Side, Side], clock: StepClock, dtype: torch.dtype
) -> str:
    """One line for an eager cell that is slower; empty where the figures do not tell.

    Args:
        cell: measured, with a ratio.
        step: the model's step in this cell, still warm.
        sides: the model and the dense one.
        clock: the clock that measured the cell.
        dtype: of the model.
    """
    extra = sides[0].linear_calls - sides[1].linear_calls
    if cell.verdict != "slower" or cell.work.execution != "eager" or extra <= 0:
        return ""
    assert cell.model is not None and cell.dense is not None
    lost_us = cell.model.median_us - cell.dense.median_us
    call_us = small_call_us(clock, dtype)
    if extra * call_us < EXPLAINED * lost_us or host_share(step, clock) < HOST_BOUND:
        return ""
    return f"{extra} more matmul calls x {call_us:.1f} us, {lost_us:,.0f} us lost: launch-bound"


def small_call_us(clock: StepClock, dtype: torch.dtype) -> float:
    """Microseconds of a linear layer so small that its call is all it costs."""
    layer = nn.Linear(8, 8, bias=False, device=clock.device, dtype=dtype)
    x = torch.ones(1, 8, device=clock.device, dtype=dtype)

    def calls() -> None:
        for _ in range(CALLS):
            layer(x)

    calls()
    return median(clock.once(calls) for _ in range(SAMPLES)) * 1e6 / CALLS


def host_share(step: Step, clock: StepClock) -> float:
    """Share of a step's time after which the host has issued it; 1 on a CPU, which does it all."""
    if clock.device.type == "cpu":
        return 1.0
    issued = median(clock.issue(step) for _ in range(ISSUES))
    return issued / max(median(clock.once(step) for _ in range(ISSUES)), 1e-9)
