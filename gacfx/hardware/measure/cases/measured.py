"""One single call measured: correctness first, then times, floor and kernels."""

from dataclasses import asdict
from typing import Protocol

import torch

from gacfx.hardware.measure.cases.prepared import Prepared
from gacfx.hardware.measure.part import Result, Setting

MAX_ERROR = 0.05
"""Above the rounding of bf16, and far below a wrong result."""


class Case(Protocol):
    """One call by its sizes; its fields are its identity."""

    def prepare(self, device: torch.device) -> Prepared:
        """Fresh operands on ``device``."""
        ...

    def small(self) -> "Case":
        """The same kind of call in a size that a CPU rehearses in no time."""
        ...


def measure_case(case: Case, setting: Setting, *, kernels: bool) -> Result:
    """Correctness, times, floor, and the kernels if they are asked for; small in a rehearsal.

    Raises:
        ArithmeticError: the result is not that of float64; a wrong kernel has no time.
    """
    prepared = (case.small() if setting.dry else case).prepare(setting.timer.device)
    result: Result = {} if prepared.choice is None else {"choice": prepared.choice}
    result["relative_error"] = error = prepared.error(prepared.call())
    if not error < MAX_ERROR:  # NaN is no pass
        raise ArithmeticError(f"relative error {error:.2e} against float64, at most {MAX_ERROR}")
    result["flops"], result["bytes"] = prepared.flops, prepared.bytes
    result["floor_us"] = setting.rates.floor_us(prepared.flops, prepared.bytes, prepared.dtype)
    result["cold"] = asdict(setting.timer.cold(prepared.call))
    result["warm"] = asdict(setting.timer.warm(prepared.call))
    if kernels:  # last: a profiler that does not work costs no times
        seen = setting.timer.kernels(prepared.call)
        result["kernels"] = [[kernel.name, kernel.us] for kernel in seen]
    return result


def line(label: str, result: Result) -> str:
    """A line for the terminal: cold and warm median beside the floor."""
    floor = result["floor_us"]
    best = f"{floor:9.1f}" if floor else "        -"
    times = f"{result['cold']['median_us']:9.1f} {result['warm']['median_us']:9.1f} {best}"
    return f"{label:44}{times}"
