"""An inspection as text: one row for each site, in the layout that fits the terminal.

all in one table             wide terminals and pipes
notes below the table        80 columns and usual names
and sizes without blanks     80 columns and longer names: 1024x4096x1107
each reason below its row    80 columns and long reasons
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gacfx.core.sites import AttentionSite, CopySite, MatmulSite
from gacfx.core.tiers import COPY
from gacfx.graph.notes import sites
from gacfx.graph.rows import Row
from gacfx.inspection import Inspection
from gacfx.report.layout import GAP, Column, Flow, grid, listing, sentence, width_of
from gacfx.report.numbers import count

TIER_STYLE = {1: "green", 2: "yellow", 3: "red", 4: "bold red"}


@dataclass(frozen=True)
class Layout:
    """Where reasons and notes stand."""

    why: bool = True
    """Reasons are a column; else they stand below their rows."""
    note: bool = True
    """Notes are a column; else they stand below the table."""
    compact: bool = False
    """Sizes without blanks."""


LAYOUTS = (
    Layout(),
    Layout(note=False),
    Layout(note=False, compact=True),
    Layout(why=False, note=False),
    Layout(why=False, note=False, compact=True),
)
"""Widest first."""


@dataclass(frozen=True)
class InspectionView:
    """Renders an inspection for whatever width the console has."""

    seen: Inspection

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from parts(self.seen, options.max_width)


def inspection_view(seen: Inspection) -> RenderableType:
    """One line on tiers, then one row for each site, equal layers folded."""
    return InspectionView(seen)


def parts(seen: Inspection, width: int) -> Iterator[RenderableType]:
    """Head, tiers, table, notes and forecast."""
    run, forecast, rows = seen.workload, seen.profile.forecast, seen.folded()
    dtypes = " and ".join(dict.fromkeys(row.dtype for row in rows))
    head = (
        seen.model,
        f"{count(seen.params)} parameters, {dtypes}",
        f"{seen.profile.name} ({forecast})",
        f"{run.mode}, batch {run.batch}, {run.seq} tokens, {run.execution}",
    )
    yield Flow(head, style="bold")
    if seen.stored:
        yield Text(f"quantized ({seen.stored}): what follows is for {dtypes}", style="yellow")
    elif seen.stored_as is not None:
        yield sentence(
            f"its weights are stored as {seen.stored_as} (config.json); all figures are for the "
            "dtype before quantization"
        )
    yield tiers_line(seen)
    yield Text()
    layout = next((each for each in LAYOUTS if fits(rows, each, width)), LAYOUTS[-1])
    yield table(rows, layout, width)
    yield Text()
    if not layout.note:
        yield from map(listing, note_lines(rows))
    yield from map(sentence, remark_lines(seen))
    if seen.uncovered:
        yield listing(uncovered_line(seen))
    yield Text(f"forecast {seen.latency_us / 1e3:,.2f} ms for all sites of one step ({forecast})")


def fits(rows: tuple[Row, ...], layout: Layout, width: int) -> bool:
    """No row of the table is wider than the terminal."""
    return width_of(columns(rows, layout)) <= width


def columns(rows: tuple[Row, ...], layout: Layout) -> list[Column]:
    """The columns of a layout; one that would be empty, or say bf16 in each row, is left out."""
    sizes = [compact(row.sizes) if layout.compact else row.sizes for row in rows]
    found = [
        Column("layers", [row.layers for row in rows]),
        Column("site", [row.name for row in rows]),
        Column("MxKxN" if layout.compact else "M x K x N", sizes),
    ]
    if len({row.dtype for row in rows}) > 1:
        found.append(Column("dtype", [row.dtype for row in rows]))
    found.append(Column("tier", [tier_text(row) for row in rows]))
    if layout.why and any(row.reason for row in rows):
        found.append(Column("why", [row.reason for row in rows]))
    found.append(
        Column("us/site", [f"{row.latency_us / row.count:,.1f}" for row in rows], right=True)
    )
    if layout.note and any(row.reasons for row in rows):
        found.append(Column("note", [row.reasons for row in rows]))
    return found


def compact(sizes: str) -> str:
    """``1024x4096x1107`` for ``1024 x 4096 x 1107``; heads are left as they are."""
    return re.sub(r"(?<=\d) x (?=\d)", "x", sizes)


def table(rows: tuple[Row, ...], layout: Layout, width: int) -> Text:
    """The rows; a reason that has no column stands below its row, under the site's name."""
    shown = columns(rows, layout)
    if layout.why:
        return grid(shown)
    room = width - width_of(shown[:1]) - len(GAP)
    lines = [Flow(row.reason.split(" "), " ", 2).lines(room) if row.reason else [] for row in rows]
    return grid(shown, lines)


def note_lines(rows: tuple[Row, ...]) -> list[str]:
    """``left alone: lm_head (outside the repeated layers)``, one line for each reason."""
    groups: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.reasons:
            groups.setdefault(row.reasons, {}).setdefault(row.name, []).append(row.layers)
    return [
        "left alone: "
        + ", ".join(f"{name} {','.join(layers)}".rstrip() for name, layers in names.items())
        + f" ({note})"
        for note, names in groups.items()
    ]


def remark_lines(seen: Inspection) -> list[str]:
    """``not modelled: aten.conv1d in mixer 0-31 (a convolution in 96 groups)``."""
    return [
        f"not modelled: {each.operator} in {f'{each.name} {each.layers}'.rstrip()} ({each.reason})"
        for each in seen.not_modelled
    ]


SHOWN = 4
"""Names of parameters that are in no site, those with most numbers."""


def uncovered_line(seen: Inspection) -> str:
    """``6.5% of the parameters are in no site: model.embed_tokens 525 M, model.norm 4.1 k``."""
    share = sum(each.params for each in seen.uncovered) / max(seen.params, 1)
    names = [
        f"{each.name.removesuffix('.weight')} {count(each.params)}"
        for each in seen.uncovered[:SHOWN]
    ]
    more = len(seen.uncovered) - SHOWN
    names += [f"and {more} more"] if more > 0 else []
    told = f"{share:.1%}" if share >= 0.0005 else "under 0.1%"
    return f"{told} of the parameters are in no site: {', '.join(names)}"


def tiers_line(seen: Inspection) -> Text:
    """``225 matmuls, 32 attentions  tier1 257 (100% flops)``; copies where there are some."""
    number_of = Counter(type(site) for _, site in sites(seen.graph))
    line = Text(f"{number_of[MatmulSite]} matmuls, {number_of[AttentionSite]} attentions")
    if copies := number_of[CopySite]:
        line.append(f", {copies} copies")
    for tier, (number, share) in seen.tiers().items():
        line.append(f"  tier{tier} {number} ({share:.0%} flops)", style=TIER_STYLE[tier])
    return line


def tier_text(row: Row) -> Text:
    """``3 align1``, in the colour of the tier; a copy has none."""
    if row.kernel == COPY:
        return Text(f"- {COPY}")
    return Text(f"{row.tier} {row.kernel}", style=TIER_STYLE[row.tier])
