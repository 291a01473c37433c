"""Reads of short windows at a row stride: what a row length costs in memory sectors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gacfx.hardware.measure.cases.prepared import Prepared, normal, relative_error


@dataclass(frozen=True, slots=True)
class StridedRead:
    """Copies the first ``width`` elements of each of ``rows`` rows that lie ``stride`` apart.

    With 16-bit elements a window of 16 is one memory sector of 32 bytes if the stride is a multiple
    of 16, and lies across two of them for most rows otherwise.
    """

    rows: int
    width: int
    stride: int
    dtype: str = "fp16"

    def prepare(self, device: torch.device) -> Prepared:
        """Fresh operands on ``device``; ``bytes`` counts what is useful, read and written."""
        wide = normal(self.rows, self.stride, dtype=self.dtype, device=device)
        window = wide[:, : self.width]
        out = torch.empty(self.rows, self.width, device=device, dtype=wide.dtype)

        def call() -> Tensor:
            return out.copy_(window)

        moved = 2 * self.rows * self.width * wide.element_size()

        def error(found: Tensor) -> float:
            return relative_error(found, window.double())

        return Prepared(call, 0, moved, self.dtype, error)

    def small(self) -> "StridedRead":
        """A size for a CPU."""
        return replace(self, rows=64)
