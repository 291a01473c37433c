"""What is measured: which steps, of which sizes, for how long."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, get_args

from torch import nn

from gacfx.calibration.text import max_positions
from gacfx.core.sites import Execution, Mode, Workload
from gacfx.errors import BenchError
from gacfx.hardware.measure.interleave import Effort

MODES, EXECUTIONS = get_args(Mode), get_args(Execution)
BATCHES = (1, 8, 64)
SEQ = 512
"""Tokens of a sequence, where the model has the positions."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The cells to measure, each mode and batch one of them.

    Raises:
        BenchError: an empty list, or a number that is too small.
    """

    batches: tuple[int, ...] = BATCHES
    seq: int | None = None
    """Tokens of a sequence, in decode those in the cache; None: 512, or what the model has."""
    modes: tuple[Mode, ...] = MODES
    execution: Execution = "eager"
    effort: Effort = field(default_factory=Effort)
    """Of each cell."""
    seed: int = 0
    """Of the random tokens."""

    def __post_init__(self) -> None:
        _check_list("batch", self.batches, lambda batch: isinstance(batch, int) and batch >= 1)
        _check_list("mode", self.modes, MODES.__contains__)
        _check_list("execution", (self.execution,), EXECUTIONS.__contains__)
        if self.seq is not None and self.seq < 1:
            raise BenchError(f"seq {self.seq}: give at least one token")
        if self.effort.runs < 1:
            raise BenchError(f"runs {self.effort.runs}: give at least one")
        if not (isfinite(self.effort.seconds) and self.effort.seconds > 0):
            raise BenchError(f"seconds {self.effort.seconds}: give a finite number above 0")

    def workloads(self, models: Sequence[nn.Module]) -> list[Workload]:
        """Every cell for these models: prefill first, small batches first.

        Raises:
            BenchError: more tokens than a model has positions.
        """
        seq = self._seq(min(max_positions(model, most=sys.maxsize) for model in models))
        return [
            Workload(batch, seq, mode, self.execution)
            for mode in MODES
            if mode in self.modes
            for batch in sorted(set(self.batches))
        ]

    def _seq(self, positions: int) -> int:
        new = int("decode" in self.modes)  # its token comes after those of the cache
        if self.seq is None:
            return max(1, min(SEQ, positions - new))
        if self.seq + new > positions:
            more = ", and decode needs one for its new token" if new else ""
            raise BenchError(
                f"seq {self.seq}: the model has {positions} positions{more}; "
                f"give at most {positions - new}"
            )
        return self.seq


def _check_list(what: str, found: Sequence[object], fits: Callable[[Any], bool]) -> None:
    if not found:
        raise BenchError(f"no {what} is given; give at least one")
    for one in found:
        if not fits(one):
            raise BenchError(f"{what} {one!r}: not one that can be measured")
