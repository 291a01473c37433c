"""Whole models: the timings of the part ``end-to-end``, found by variant and cell."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.summary import paper
from benchmarks.gpu.summary.records import Entry, Records, Times

PART = "end-to-end"
MODES = ("eager", "graph", "compiled", "padded-compiled", "reduce-overhead")
PLAIN = ("eager", "graph")
"""Modes without torch.compile."""
HEADLINE_SEQ = 1024
"""Tokens of GAC-v2's Table 5."""
ESTIMATED_SEQ = 512
"""Tokens of GAC-v1's Table 3."""
PREFERRED = {"prefill": "eager", "decode": "graph"}
"""Phase -> mode to speak of first: the papers' own, and for decode the one that launches do not
bound."""
FAMILIES = ("asvd", "pruner")
"""Variants that come unaligned, aligned and padded."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What was run, whatever the variant."""

    phase: str
    mode: str
    batch: int
    seq: int
    """Tokens of a prefill; of decode the length of the KV cache."""
    layers: int

    def text(self) -> str:
        """``prefill of 1024 tokens, batch 1, eager, 32 layers``."""
        what = "prefill of" if self.phase == "prefill" else "decode after"
        return f"{what} {self.seq} tokens, batch {self.batch}, {self.mode}, {self.layers} layers"


@dataclass(frozen=True, slots=True)
class Timing:
    """One variant under one cell."""

    variant: str
    cell: Cell
    times: Times
    entry: Entry

    @property
    def us(self) -> float:
        """Median."""
        return self.times.median_us

    @property
    def floor_us(self) -> float | None:
        """No implementation is faster at this machine's ceilings."""
        return self.entry.number("floor_us")


class Timings:
    """All timings of a machine, found by variant and cell."""

    def __init__(self, found: Iterable[Timing]) -> None:
        self._found = {(timing.cell, timing.variant): timing for timing in found}

    def get(self, cell: Cell, variant: str) -> Timing | None:
        """One timing; None where it was not measured."""
        return self._found.get((cell, variant))

    def us(self, cell: Cell, variant: str) -> float | None:
        """One median; None where it was not measured."""
        found = self.get(cell, variant)
        return None if found is None else found.us

    def dense_us(self, cell: Cell) -> float | None:
        """The dense model to compare a cell with: padding compiles nothing else when all fits."""
        mode = "compiled" if cell.mode == "padded-compiled" else cell.mode
        return self.us(replace(cell, mode=mode), "dense")

    def cells(self, phase: str) -> list[Cell]:
        """Cells of a phase, sorted."""
        return sorted({cell for cell, _ in self._found if cell.phase == phase})

    def variants(self, cells: Sequence[Cell]) -> list[str]:
        """Variants that were measured in one of these cells, in the order of the pages."""
        there = {variant for cell, variant in self._found if cell in cells}
        return [v for v in paper.VARIANTS if v in there] + sorted(there - set(paper.VARIANTS))

    def headline(self, phase: str = "prefill") -> Cell | None:
        """The cell to speak of first: 1024 tokens, batch 1, all layers, or the nearest."""
        cells = [cell for cell in self.cells(phase) if self.us(cell, "dense") is not None]
        return min(cells, key=self._distance, default=None)

    def _distance(self, cell: Cell) -> tuple[object, ...]:
        unlike = (cell.mode not in PLAIN, cell.mode != PREFERRED.get(cell.phase))
        few = -len(self.variants([cell]))
        return unlike[0], cell.batch, -cell.layers, abs(cell.seq - HEADLINE_SEQ), unlike[1], few


def timings(records: Records) -> Timings:
    """The measured times of the part ``end-to-end``."""
    return Timings(
        Timing(entry.item["variant"], cell(entry.item), found, entry)
        for entry in records.results(PART)
        if (found := entry.times("times")) is not None
    )


def cell(item: dict[str, Any]) -> Cell:
    """The cell of an item."""
    return Cell(item["phase"], item["mode"], item["batch"], item["seq"], item["layers"])


def title(variant: str) -> str:
    """Name of a variant on the pages."""
    return paper.VARIANTS.get(variant, variant)
