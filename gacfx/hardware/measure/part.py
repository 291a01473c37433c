"""What a part of the collection is: a list of items, and how one item is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gacfx.hardware.measure.timing import Timer

Result = dict[str, Any]
"""JSON values only."""


@dataclass(slots=True)
class Rates:
    """The fastest that this machine was seen to go, from the part ``ceilings`` of the same run."""

    tflops: dict[str, float] = field(default_factory=dict)
    """dtype -> dense matmul rate, random data."""
    gbps: float = 0.0
    """Copy bandwidth, bytes read plus bytes written, 1e9 a second."""

    def floor_us(self, flops: float, moved_bytes: float, dtype: str) -> float | None:
        """The longer of arithmetic and traffic at these rates; None if a rate is not known."""
        rate = self.tflops.get(dtype)
        if rate is None or not self.gbps:
            return None
        return round(max(flops / (rate * 1e6), moved_bytes / (self.gbps * 1e3)), 3)


@dataclass(frozen=True, slots=True)
class Setting:
    """What every part is given."""

    timer: Timer
    rates: Rates
    dry: bool = False
    """Tiny sizes on the CPU."""
    seed: int = 0
    extra: Path | None = None
    """Private shapes for the part ``dispatch``."""


class Part(Protocol):
    """One question to the machine."""

    name: str

    def items(self) -> Sequence[Any]:
        """Everything to measure, the most valuable first."""
        ...

    def seconds(self, item: Any) -> float:
        """About how long an item takes; one that does not fit into the time left is not begun."""
        ...

    def measure(self, item: Any) -> Result:
        """The result of one item; an exception is a result too and is recorded by the caller."""
        ...

    def headline(self, item: Any, result: Result) -> str | None:
        """One line for the table at the end; None for an item that is not worth one."""
        ...

    def close(self) -> None:
        """Let go of memory."""
        ...
