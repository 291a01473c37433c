"""Compression methods and value models as two tables that fit the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gacfx.compressors.methods import DEFAULT
from gacfx.compressors.protocol import Compressor
from gacfx.compressors.values import NATS, TRIED, ValueModel
from gacfx.compressors.whole import WholeMethod
from gacfx.core.settings import settings_of
from gacfx.report.layout import GAP, Column, grid, sentence, width_of

METHODS = (
    "D: error of a weight; A, G: second moments of its inputs and output gradients; S: diag E|x|; "
    "proxy: importance under the value model paper; kinds: what can become of a weight. "
    f"--method NAME or NAME:SETTING=VALUE,... (default: {DEFAULT}); gacfx methods NAME says more"
)
WHOLE = "These change the whole model at once and have a command of their own, not --method."
VALUES = (
    "Only nats add up to a forecast of the loss. --value NAME (default: auto, a plan for each of "
    f"{', '.join(TRIED)}; the one with the lowest loss on held-back text is kept)"
)


@dataclass(frozen=True)
class MethodsView:
    """Renders both tables for whatever width the console has."""

    methods: Sequence[Compressor]
    values: Sequence[ValueModel]
    whole: Sequence[WholeMethod] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield table(_methods(self.methods), width)
        yield from (Text(), sentence(METHODS), Text())
        if self.whole:
            yield table(_whole(self.whole), width)
            yield from (Text(), sentence(WHOLE), Text())
        yield table(_values(self.values), width)
        yield from (Text(), sentence(VALUES))


def methods_view(
    methods: Sequence[Compressor],
    values: Sequence[ValueModel],
    whole: Sequence[WholeMethod] = (),
) -> RenderableType:
    """One row for each method, then those with a door of their own, then the value models."""
    return MethodsView(methods, values, whole)


def table(columns: Sequence[Column], width: int) -> Text:
    """A grid of as many columns as fit; what the others say stands below each row."""
    shown = next((n for n in range(len(columns), 1, -1) if width_of(columns[:n]) <= width), 1)
    below = [
        list(_wrapped([str(cell) for cell in cells], width - columns[0].width - len(GAP)))
        for cells in zip(*(column.cells for column in columns[shown:]), strict=True)
    ]
    return grid(columns[:shown], below)


def _wrapped(cells: Sequence[str], room: int) -> Iterator[str]:
    for cell in cells:
        yield from wrap(cell, max(room, 1), break_on_hyphens=False, break_long_words=False)


def _methods(methods: Sequence[Compressor]) -> list[Column]:
    kinds = [", ".join(m.all_kinds) for m in methods]
    return [
        Column("method", [m.name for m in methods]),
        Column("minimises", [m.minimises for m in methods]),
        Column("statistics", [", ".join(m.needs) or "none" for m in methods]),
        Column("proxy", [m.proxy for m in methods]),
        Column("kinds", kinds),
        Column("source", [m.source for m in methods]),
        Column("settings", [", ".join(map(str, settings_of(m))) for m in methods]),
    ]


def _whole(methods: Sequence[WholeMethod]) -> list[Column]:
    return [
        Column("whole model", [m.name for m in methods]),
        Column("command", [m.door for m in methods]),
        Column("minimises", [m.minimises for m in methods]),
        Column("source", [m.source for m in methods]),
        Column("options", [", ".join(m.settings) for m in methods]),
    ]


def _values(values: Sequence[ValueModel]) -> list[Column]:
    units = ["nats per token" if v.unit == NATS else v.unit for v in values]
    return [
        Column("value", [v.name for v in values]),
        Column("losses in", units),
        Column("what is counted", [v.what for v in values]),
        Column("source", [v.source for v in values]),
    ]
