"""Coupled dimensions as text."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gacfx.core.dims import Dim, Dims
from gacfx.graph.layers import split_layer
from gacfx.report.layout import GAP, Column, Flow, grid, sentence, width_of

MOST_SHOWN = 6
"""Weights that are named for each dimension."""

Uses = tuple[str, ...]


@dataclass(frozen=True)
class DimsView:
    """Renders dimensions for whatever width the console has."""

    dims: Dims

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from parts(self.dims, options.max_width)


def dims_view(dims: Dims) -> RenderableType:
    """Free and frozen dims, those of equal size and role folded."""
    return DimsView(dims)


def parts(dims: Dims, width: int) -> Iterator[RenderableType]:
    """Head, table, and what could not be followed."""
    groups, free = len(dims.groups()), len(dims.free())
    yield Text(f"{len(dims.dims)} dims in {groups} groups, {free} of them free", style="bold")
    yield table(fold_dims(dims), width)
    yield from (sentence(f"not followed: {note}") for note in dims.notes)


def table(folded: dict[tuple[int, Uses, str], list[str]], width: int) -> Text:
    """One row for each fold; why a dim is frozen stands below its uses where no column fits."""
    keys = list(folded)
    numbers = [
        Column("dims", [str(len(names)) for names in folded.values()], right=True),
        Column("size", [str(size) for size, _, _ in keys], right=True),
    ]
    wide = [
        *numbers,
        Column("shows in", [", ".join(uses) for _, uses, _ in keys]),
        Column("frozen because", [frozen for _, _, frozen in keys]),
    ]
    if width_of(wide) <= width:
        return grid(wide)
    room = max(width - width_of(numbers) - len(GAP), 1)
    cells = [Flow(uses, ", ", 0).lines(room) for _, uses, _ in keys]
    for lines, (_, _, frozen) in zip(cells, keys, strict=True):
        lines += Flow(f"frozen: {frozen}".split(" "), " ", 2).lines(room) if frozen else []
    shown = Column("shows in", [lines[0] for lines in cells])
    return grid([*numbers, shown], [lines[1:] for lines in cells], under=2)


def fold_dims(dims: Dims) -> dict[tuple[int, Uses, str], list[str]]:
    """(size, where it shows without layer numbers, why frozen) -> names of the dims."""
    folded: dict[tuple[int, Uses, str], list[str]] = {}
    for dim in dims.dims:
        folded.setdefault((dim.size, _uses(dim), dim.frozen), []).append(dim.name)
    return folded


def _uses(dim: Dim) -> Uses:
    """``32 q_proj[1]`` where it shows in 32 layers, ...; at the end ``and 6 more``."""
    seen: Counter[str] = Counter()
    for use in dim.uses:
        _, _, short = split_layer(use.weight.removesuffix(".weight"))
        seen[f"{short}[{use.axis}]"] += 1
    shown = [name if n == 1 else f"{n} {name}" for name, n in seen.items()]
    more = len(shown) - MOST_SHOWN
    return (*shown[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else []))
