"""The table of a bench, for 80 columns: one row for each model of each cell."""

from collections.abc import Iterator
from math import floor, log10
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.bench import Bench, Cell, Machine, Side
from gacfx.hardware.measure.interleave import CONFIDENCE
from gacfx.hardware.measure.times import Times
from gacfx.report.numbers import count

STYLE = {"faster": "green", "slower": "red", "unclear": ""}
PAIRS = "a low-rank layer is two matmul calls; the smallest call was timed here"


def bench_view(found: Bench) -> RenderableType:
    """The head, one line for each model, the cells, and what is to be said of them."""
    sides = [side for side in (found.dense, found.model) if side is not None]
    parts: list[RenderableType] = [Text(head(found), style="bold"), Text(f"on {place(found)}")]
    parts += [Text(side_line(side)) for side in sides]
    parts += [Text(), cells_table(found)]
    if lines := list(notes(found)):
        parts += [Text(), *map(Text, lines)]
    return Group(*parts)


def head(found: Bench) -> str:
    """``prefill and decode, 512 tokens, eager, bf16``."""
    modes = " and ".join(dict.fromkeys(cell.work.mode for cell in found.cells))
    asked = found.setting
    return f"{modes}, {asked.seq} tokens, {asked.execution}, {found.model.dtype}"


def place(found: Bench) -> str:
    """``NVIDIA H200``; of a CPU also how many threads worked."""
    return machine_name(found.machine)


def machine_name(machine: Machine) -> str:
    """``NVIDIA H200``; of a CPU also how many threads worked."""
    if machine.device != "cpu":
        return machine.name
    return f"{machine.name}, {machine.threads} thread{'s' if machine.threads != 1 else ''}"


def side_line(side: Side) -> str:
    """``small: 752 k parameters, 18 low-rank layers, 54 linear calls``."""
    low = f"{side.low_rank_layers} low-rank layers, " if side.low_rank_layers else ""
    return f"{side.name}: {count(side.params)} parameters, {low}{side.linear_calls} linear calls"


def cells_table(found: Bench) -> Table:
    """Two rows for each cell that was measured against another model, else one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ["cell", "model", ">ms", "p10-p90", ">tokens/s"]
    if found.dense is not None:
        sure = (cell.ratio.confidence for cell in found.cells if cell.ratio)
        names += ["dense/this", f"{min([CONFIDENCE, *sure]):.0%} sure"]
    for name in names:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=True)
    for cell in found.cells:
        for row in rows(cell):
            table.add_row(*row[: len(names)])
    return table


def rows(cell: Cell) -> Iterator[tuple[str | Text, ...]]:
    """The dense model's row, if there is one, then the model's with the verdict."""
    name = f"{cell.work.mode} {cell.work.batch}"
    if cell.model is None:
        yield name, "-", "", cell.status, "", "", ""
        return
    if cell.dense is not None:
        yield name, "dense", *_figures(cell, cell.dense), "", ""
        name = ""
    yield name, "this", *_figures(cell, cell.model), verdict(cell), _interval(cell)


def verdict(cell: Cell) -> Text:
    """``1.08x faster``, ``0.93x, slower``, or ``1.01x, unclear`` where the interval holds 1."""
    if cell.ratio is None or cell.verdict is None:
        return Text()
    comma = "" if cell.verdict == "faster" else ","
    return Text(f"{cell.ratio.median:.2f}x{comma} {cell.verdict}", style=STYLE[cell.verdict])


def notes(found: Bench) -> Iterator[str]:
    """Why cells have no figures, the same reason once; why some are slower."""
    reasons: dict[str, list[str]] = {}
    for cell in found.cells:
        if cell.reason:
            said = f"{cell.status}, {cell.reason}"
            reasons.setdefault(said, []).append(f"{cell.work.mode} {cell.work.batch}")
    for said, names in reasons.items():
        yield f"{', '.join(names)}: {said}"
    slower = [cell for cell in found.cells if cell.why]
    for cell in slower:
        yield f"{cell.work.mode} {cell.work.batch}: {cell.why}"
    if slower:
        yield PAIRS


def three(number: float) -> str:
    """Three digits that count: ``0.123``, ``12.3``, ``1,234``."""
    if number <= 0:
        return "0"
    return f"{number:,.{max(0, 2 - floor(log10(number)))}f}"


def _figures(cell: Cell, times: Times) -> tuple[str, str, str]:
    spread = f"{three(times.p10_us / 1e3)}-{three(times.p90_us / 1e3)}"
    return three(times.median_us / 1e3), spread, three(cell.tokens_per_s(times) or 0.0)


def _interval(cell: Cell) -> str:
    return "" if cell.ratio is None else f"{cell.ratio.low:.2f}-{cell.ratio.high:.2f}"
