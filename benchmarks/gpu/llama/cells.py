"""What the end-to-end part measures, in order of value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.llama.architecture import LLAMA_3_8B, TINY, Architecture
from benchmarks.gpu.llama.variants import NAMES
from gacfx.core.sites import Mode as Phase
from gacfx.core.sites import Workload

Kind = Literal["time", "kernels", "check"]
Mode = Literal["eager", "graph", "compiled", "padded-compiled", "reduce-overhead"]
COMPILED_LAYERS = 8
"""Compile time grows with the layers; these are a quarter of the model, evenly chosen."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure; its fields are its identity."""

    kind: Kind
    variant: str
    mode: Mode
    phase: Phase
    batch: int
    seq: int
    layers: int

    @property
    def work(self) -> Workload:
        """What one call of it does, in whatever mode."""
        return Workload(self.batch, self.seq, self.phase)


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes of a run."""

    architecture: Architecture
    seq: int
    """Of the comparison that matters most, and of every cache."""
    others: tuple[int, ...]
    """Further prefill lengths."""
    batches: tuple[int, ...]
    """Further decode batches."""
    compiled_layers: int
    compiled: tuple[str, ...]
    """Variants under torch.compile."""
    forced: tuple[str, ...]
    """Those of them that are compiled with force_shape_pad too: the others have nothing to pad."""
    long: int
    """A second prefill length under torch.compile."""


GRID = Grid(
    architecture=LLAMA_3_8B,
    seq=1024,
    others=(4096, 2048, 512, 256, 128),
    batches=(8, 32),
    compiled_layers=COMPILED_LAYERS,
    compiled=("dense", "asvd", "asvd-aligned", "default", "pruner", "pruner-aligned"),
    forced=("asvd", "pruner"),
    long=4096,
)
DRY_GRID = Grid(
    architecture=TINY,
    seq=16,
    others=(8,),
    batches=(2,),
    compiled_layers=1,
    compiled=("asvd",),
    forced=("asvd",),
    long=16,
)


def cells(grid: Grid) -> list[Cell]:
    """All cells: classes of falling value, inside a class variant by variant.

    A variant is made anew whenever the next cell wants another one. So the cells of a variant stand
    together inside a class; but a class is finished for all variants before the next begins,
    because a comparison that lacks a variant is worth little.
    """
    # dict.fromkeys: a rehearsal's sizes may coincide.
    return list(dict.fromkeys([*_checks(grid), *_eager(grid), *_compiled(grid)]))


def _checks(grid: Grid) -> Iterator[Cell]:
    """Each cell stands for one check; ``checks.py`` has the list."""
    size, depth = grid.seq, grid.architecture.layers
    yield Cell("check", "dense", "eager", "decode", 1, size, depth)
    yield Cell("check", "asvd", "eager", "prefill", 1, size, depth)
    yield Cell("check", "asvd", "graph", "prefill", 1, size, depth)
    yield Cell("check", "asvd", "graph", "decode", 1, size, depth)
    yield Cell("check", "asvd-padded", "eager", "prefill", 1, size, depth)
    yield Cell("check", "pruner-padded", "eager", "prefill", 1, size, depth)


def _eager(grid: Grid) -> Iterator[Cell]:
    """The whole model, as the host launches it and as one CUDA graph."""
    depth = grid.architecture.layers
    yield from _both("prefill", 1, grid.seq, depth, NAMES)
    yield from _both("decode", 1, grid.seq, depth, NAMES)
    for seq in grid.others:
        yield from _both("prefill", 1, seq, depth, NAMES)
    # Last: once the profiler has run, the host launches more slowly to the end of the process.
    for name in NAMES:
        yield Cell("kernels", name, "eager", "prefill", 1, grid.seq, depth)


def _compiled(grid: Grid) -> Iterator[Cell]:
    """Fewer layers under torch.compile, and the same layers without it; then what is left."""
    few, names = grid.compiled_layers, grid.compiled
    yield from _both("prefill", 1, grid.seq, few, names)
    yield from _inductor(grid, "prefill", grid.seq)
    yield from _both("decode", 1, grid.seq, few, names)
    for name in names:
        yield Cell("time", name, "reduce-overhead", "decode", 1, grid.seq, few)
    for batch in grid.batches:
        yield from _both("decode", batch, grid.seq, grid.architecture.layers, NAMES)
    for name in NAMES:
        yield Cell("kernels", name, "eager", "decode", 1, grid.seq, grid.architecture.layers)
    yield from _inductor(grid, "decode", grid.seq)
    yield from _both("prefill", 1, grid.long, few, names)
    yield from _inductor(grid, "prefill", grid.long)


def _both(
    phase: Phase, batch: int, seq: int, layers: int, names: tuple[str, ...]
) -> Iterator[Cell]:
    modes: tuple[Mode, ...] = ("eager", "graph")
    for name in names:
        for mode in modes:
            yield Cell("time", name, mode, phase, batch, seq, layers)


def _inductor(grid: Grid, phase: Phase, seq: int) -> Iterator[Cell]:
    for name in grid.compiled:
        yield Cell("time", name, "compiled", phase, 1, seq, grid.compiled_layers)
        if name in grid.forced:
            yield Cell("time", name, "padded-compiled", phase, 1, seq, grid.compiled_layers)
