"""What this machine can do at best: matmul rates and copy bandwidth; all floors come from here."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from gacfx.hardware.measure.cases.gemm import Gemm
from gacfx.hardware.measure.clock import Call
from gacfx.hardware.measure.part import Result, Setting

MATMUL_SIZE = 8192
"""M = N = K: 1.1 TFLOP, many full waves on any GPU."""
SLOW_SIZE = 4096
"""The same for dtypes without fast tensor cores."""
COPY_BYTES = 4 << 30
RAMP_UP_CALLS = 600
"""Large matmuls before anything is timed, most of a second: idle clocks are a fifth of the working
ones, and the card's power limit acts within some tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One rate."""

    what: str
    """``matmul``, ``copy``, or ``event``: an empty pair of events, the least time that is seen."""
    dtype: str = "bf16"
    size: int = 0
    """M = N = K, or bytes."""


class Ceilings:
    """Runs first in every run and fills ``setting.rates``; never resumed."""

    name = "ceilings"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._ready = False

    def items(self) -> Sequence[Ceiling]:
        """Copy and matmul rates by dtype; illegal dtypes fail and are recorded so."""
        if self._setting.dry:
            sizes, copied = (64, 64), 1 << 16
        else:
            sizes, copied = (MATMUL_SIZE, SLOW_SIZE), COPY_BYTES
        fast = [Ceiling("matmul", dtype, sizes[0]) for dtype in ("bf16", "fp16", "fp8", "int8")]
        slow = [Ceiling("matmul", dtype, sizes[1]) for dtype in ("fp32", "fp64")]
        return [Ceiling("copy", "fp32", copied), *fast, *slow, Ceiling("event")]

    def seconds(self, item: Ceiling) -> float:
        """A second or less each."""
        return 1.0

    def measure(self, item: Ceiling) -> Result:
        """The rate of one item."""
        if not self._ready:
            self._ramp_up()
        if item.what == "copy":
            return self._copy(item)
        if item.what == "event":
            nothing: Call = lambda: None  # noqa: E731
            return {"us": self._setting.timer.cold(nothing).median_us}
        return self._matmul(item)

    def headline(self, item: Ceiling, result: Result) -> str | None:
        """The rate."""
        label = f"{item.what} {item.dtype if item.what == 'matmul' else ''}".strip()
        for unit in ("tflops", "gbps", "us"):
            if unit in result:
                return f"{label:44}{result[unit]:9.1f} {unit}"
        return None

    def close(self) -> None:
        """Nothing is kept."""

    def _ramp_up(self) -> None:
        size = 64 if self._setting.dry else MATMUL_SIZE
        prepared = Gemm(size, size, size).prepare(self._setting.timer.device)
        for _ in range(2 if self._setting.dry else RAMP_UP_CALLS):
            prepared.call()
        self._ready = True

    def _copy(self, item: Ceiling) -> Result:
        source = torch.randn(item.size // 4, device=self._setting.timer.device)
        target = torch.empty_like(source)
        times = self._setting.timer.warm(lambda: target.copy_(source))
        gbps = 2 * item.size / (times.median_us * 1e3)
        self._setting.rates.gbps = gbps
        return {"gbps": round(gbps, 1), "warm": asdict(times)}

    def _matmul(self, item: Ceiling) -> Result:
        op = item.dtype if item.dtype in ("fp8", "int8") else "linear"
        dtype = "bf16" if op != "linear" else item.dtype
        case = Gemm(item.size, item.size, item.size, dtype, op)
        # Three operand sets; the fastest is the ceiling, so that no floor is above a short call.
        runs = []
        for _ in range(3):
            prepared = case.prepare(self._setting.timer.device)
            runs.append(self._setting.timer.warm(prepared.call, budget_ms=40.0))
        best = min(runs, key=lambda times: times.median_us)
        tflops = prepared.flops / (best.median_us * 1e6)
        self._setting.rates.tflops[item.dtype] = tflops
        return {"tflops": round(tflops, 2), "warm": asdict(best)}
