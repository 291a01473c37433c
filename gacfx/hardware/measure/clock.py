"""The machine's own clock: how long whoever makes a call waits for it, on a CPU or a GPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of one call on a device."""

    device: torch.device

    def once(self, call: Call) -> float:
        """Seconds until its work is done; nothing else runs on the device at either end."""
        self._wait()
        begin = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - begin

    def issue(self, call: Call) -> float:
        """Seconds until the call returns; on a GPU its kernels may still run then."""
        self._wait()
        begin = time.perf_counter()
        call()
        took_s = time.perf_counter() - begin
        self._wait()
        return took_s

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
