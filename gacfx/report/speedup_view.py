"""The short table that answers first: how much faster? Ratios, and why where it is slower."""

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.speedup import BATCHES, MODES, Cause, Point, Speedup

WHY: dict[Cause, str] = {
    "launch": "launch cost, several kernels stand for one",
    "memory": "memory traffic, several kernels also move what passes between them",
    "compute": "arithmetic, narrow products fill the GPU less than a wide one",
    "kernel": "some sizes are off the fast kernels",
    "loop": "experts of other sizes run one by one; --form pair --limit tie-experts groups them",
}
SMALL = (
    "at this size most of a decode step is starting kernels; "
    "for real shapes: gacfx plan llama-3-8b --synthetic 0.5"
)


def speedup_view(found: Speedup, *, hint: bool = True) -> RenderableType:
    """One row for each mode, one column for each batch; one line where nothing can be compared.

    With ``hint`` a model too small to be faster is told where to look for real shapes.
    """
    head = f"how much faster on {found.gpu}"
    if found.refused:
        return Text(f"{head}: no forecast, {found.refused}")
    if not found.replaced:
        return Text(f"{head}: not at all, every weight stays dense")
    compiled = ", compiled" if found.execution == "compiled" else ""
    about = f"{found.evidence} forecast, {found.scope}, {found.dtype}, {found.seq} tokens{compiled}"
    slower = any(map(is_slower, found.points))
    parts: list[RenderableType] = [
        Text(f"{head} ({about})", style="bold"),
        ratios_table(found, reasons=slower),
    ]
    return Group(*parts, *([Text(SMALL)] if hint and slower and found.small else []))


def ratios_table(found: Speedup, *, reasons: bool) -> Table:
    """``1.19x`` for each mode and batch; ``reasons`` adds a column for what is slower."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for batch in BATCHES:
        table.add_column(f"batch {batch}", justify="right", no_wrap=True)
    if reasons:
        table.add_column("")
    for mode in MODES:
        row = [point for point in found.points if point.mode == mode]
        table.add_row(mode, *map(ratio_text, row), *([slower_text(row)] if reasons else []))
    return table


def ratio_text(point: Point) -> str:
    """``1.19x``."""
    return f"{point.ratio:.2f}x"


def is_slower(point: Point) -> bool:
    """Slower as far as the table shows it: 0.998 is 1.00x there."""
    return round(point.ratio, 2) < 1


def slower_text(row: list[Point]) -> str:
    """``slower at batch 1, 8: launch cost, ...``; empty where nothing is."""
    said = [
        f"{', '.join(str(point.batch) for point in points)}: {WHY[cause]}"
        for cause, points in groupby(filter(is_slower, row), key=lambda point: point.cause)
        if cause is not None
    ]
    return f"slower at batch {'; '.join(said)}" if said else ""
