"""How one call is timed: kernels by name, cold and warm medians, and their spread.

cold    each run after a read of several L2 sizes, timed by a pair of CUDA events. A spinning kernel
        goes first, so that the host is ahead and no launch gap is in the time.
warm    many calls in one CUDA graph, replayed; divided by their number. Operands that fit lie in
        L2, so it may be below a floor at memory bandwidth. Where the call cannot be captured, a
        loop between two events, and ``how`` says so.

On a machine without CUDA the benchmarks of GPUs time the same calls by the host's clock: a
rehearsal, no result.
"""

from contextlib import suppress
from typing import Protocol

import torch

from gacfx.hardware.kernel_names import Kernel
from gacfx.hardware.measure.clock import Call, Clock
from gacfx.hardware.measure.times import Times, summary

WARM_UP = 3
MIN_RUNS, MAX_RUNS = 7, 60
SPIN_CYCLES = 400_000
"""About 0.2 ms at 2 GHz: longer than the host needs to launch a dozen kernels."""
PROFILER_OVERHEAD = ("Activity Buffer Request", "Command Buffer Full", "Lazy Function Loading")
"""Events that the profiler reports beside the kernels."""
FLUSH_SIZES = 4
"""L2 sizes that are read before a cold run."""


class Timer(Protocol):
    """What the parts need of a clock."""

    device: torch.device

    def cold(self, call: Call, budget_ms: float = 60.0) -> Times:
        """Each run with a cold L2."""
        ...

    def warm(self, call: Call, budget_ms: float = 60.0) -> Times:
        """Runs back to back, no launch gaps where the call can be captured."""
        ...

    def eager(self, call: Call, budget_ms: float = 400.0) -> Times:
        """Runs back to back as the host launches them, its gaps included."""
        ...

    def kernels(self, call: Call) -> list[Kernel]:
        """The kernels of one call, by the profiler; empty where there is none."""
        ...

    def once(self, call: Call) -> float:
        """Seconds of one call, synchronised at both ends."""
        ...


def make_timer(*, dry: bool) -> Timer:
    """The timer of this machine.

    Raises:
        RuntimeError: no CUDA device and not a dry run.
    """
    if dry:
        return HostTimer()
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device; --dry rehearses on the CPU")
    return CudaTimer()


class CudaTimer:
    """Times by CUDA events."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
        words = FLUSH_SIZES * max(l2_bytes, 1 << 25) // 4
        self._flush = torch.empty(words, device=self.device).normal_()
        self._sink = torch.empty((), device=self.device)

    def cold(self, call: Call, budget_ms: float = 60.0) -> Times:
        """See ``Timer``."""
        runs = self._runs(call, budget_ms)
        pairs = [(_event(), _event()) for _ in range(runs)]
        for begin, end in pairs:
            torch.cuda._sleep(SPIN_CYCLES)
            torch.sum(self._flush, dim=0, out=self._sink)  # read, not written: no lines to evict
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return summary([begin.elapsed_time(end) * 1e3 for begin, end in pairs], "cold")

    def warm(self, call: Call, budget_ms: float = 60.0) -> Times:
        """See ``Timer``."""
        one_us = self._estimate(call)
        calls = max(1, min(20, int(1000 / one_us)))
        graph = _capture(call, calls)
        if graph is None:
            return self._repeat(call, calls, budget_ms, one_us, "loop")
        return self._repeat(graph.replay, calls, budget_ms, one_us, "graph", replays=True)

    def eager(self, call: Call, budget_ms: float = 400.0) -> Times:
        """See ``Timer``."""
        return self._repeat(call, 1, budget_ms, self._estimate(call), "loop")

    def kernels(self, call: Call) -> list[Kernel]:
        """See ``Timer``."""
        from torch._C._autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            call()
            torch.cuda.synchronize()
        return [
            Kernel(event.name, round(event.time_range.elapsed_us(), 2))
            for event in trace.events()
            if event.device_type == DeviceType.CUDA and event.name not in PROFILER_OVERHEAD
        ]

    def once(self, call: Call) -> float:
        """See ``Timer``."""
        return Clock(self.device).once(call)

    def _runs(self, call: Call, budget_ms: float) -> int:
        return max(MIN_RUNS, min(MAX_RUNS, int(budget_ms * 1e3 / self._estimate(call))))

    def _estimate(self, call: Call) -> float:
        """Microseconds of one call after the warm-up."""
        for _ in range(WARM_UP):
            call()
        torch.cuda.synchronize()
        begin, end = _event(), _event()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return max(float(begin.elapsed_time(end)) * 1e3, 1.0)

    def _repeat(
        self,
        call: Call,
        calls: int,
        budget_ms: float,
        one_us: float,
        how: str,
        *,
        replays: bool = False,
    ) -> Times:
        """Samples of ``calls`` calls each; a replay holds all of them."""
        runs = max(MIN_RUNS, min(MAX_RUNS, int(budget_ms * 1e3 / (one_us * calls))))
        pairs = [(_event(), _event()) for _ in range(runs)]
        call()  # a graph's first replay uploads it
        for begin, end in pairs:
            torch.cuda._sleep(SPIN_CYCLES // 4)
            begin.record()
            for _ in range(1 if replays else calls):
                call()
            end.record()
        torch.cuda.synchronize()
        return summary([b.elapsed_time(e) * 1e3 / calls for b, e in pairs], how)


class HostTimer:
    """Times by the host's clock, few runs: for rehearsals."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def cold(self, call: Call, budget_ms: float = 60.0) -> Times:
        """See ``Timer``; nothing is flushed."""
        return summary([self.once(call) * 1e6 for _ in range(3)], "host")

    def warm(self, call: Call, budget_ms: float = 60.0) -> Times:
        """See ``Timer``."""
        return self.cold(call)

    def eager(self, call: Call, budget_ms: float = 400.0) -> Times:
        """See ``Timer``."""
        return self.cold(call)

    def kernels(self, call: Call) -> list[Kernel]:
        """No kernels on a CPU."""
        return []

    def once(self, call: Call) -> float:
        """See ``Timer``."""
        return Clock(self.device).once(call)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _capture(call: Call, calls: int) -> torch.cuda.CUDAGraph | None:
    """``calls`` calls as one graph; None if something in them cannot be captured."""
    home, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    with suppress(RuntimeError):
        # Only what this thread does can spoil the capture, not inductor's threads.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(calls):
                call()
        return graph
    recover(home)
    return None


def recover(home: torch.cuda.Stream) -> None:
    """Undo what a capture that failed leaves behind: torch ends it half.

    Its stream stays the current one, and the default generator believes that it is captured: every
    later ``torch.randn`` raises "Offset increment outside graph capture".

    Raises:
        RuntimeError: the device itself is broken.
    """
    torch.cuda.set_stream(home)
    torch.cuda.synchronize()
    for default in torch.cuda.default_generators:
        fresh = torch.Generator(default.device).manual_seed(default.initial_seed())
        default.graphsafe_set_state(fresh)
