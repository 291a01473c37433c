"""One compression method in full: what it minimises, its settings, and what its paper claims."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gacfx.compressors.protocol import Claim, Compressor
from gacfx.compressors.whole import WholeMethod
from gacfx.core.settings import AFTER, settings_of
from gacfx.report.layout import GAP

NONE_YET = "none yet"
"""In the place of a benchmark that nobody has written."""


@dataclass(frozen=True)
class MethodView:
    """Renders a method for whatever width the console has."""

    name: str
    rows: Sequence[tuple[str, Sequence[str]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self.rows
        wide = max(len(heading) for heading, _ in rows) + len(GAP)
        yield Text(self.name, style="bold")
        for heading, texts in rows:
            lines = [line for text in texts for line in _wrapped(text, options.max_width - wide)]
            for number, line in enumerate(lines):
                yield Text(f"{'' if number else heading:<{wide}}{line}")


def method_view(method: Compressor) -> RenderableType:
    """A method in full."""
    return MethodView(method.name, list(_rows(method)))


def whole_view(method: WholeMethod) -> RenderableType:
    """A method with a door of its own in full."""
    rows: list[tuple[str, Sequence[str]]] = [
        ("command", [method.door]),
        ("minimises", [method.minimises]),
        ("statistics", [", ".join(method.needs) or "none"]),
        ("by itself", [method.allocates]),
        ("refuses", method.leaves),
        ("source", [method.source]),
        ("options", method.settings),
        ("claims", [*map(_claim, method.claims)] or ["none of a paper"]),
    ]
    return MethodView(method.name, rows)


def _rows(method: Compressor) -> Iterator[tuple[str, Sequence[str]]]:
    yield "minimises", [method.minimises]
    yield "statistics", [", ".join(method.needs) or "none"]
    yield "kinds", [", ".join(method.all_kinds)]
    yield "proxy", [method.proxy]
    yield "by itself", [method.allocates]
    if method.leaves:
        yield "leaves", method.leaves
    yield "source", [method.source]
    if settings := settings_of(method):
        written = max(len(str(one)) for one in settings)
        yield "settings", [f"{one!s:<{written}}{GAP}{one.what} ({one.values})" for one in settings]
        name = method.name + ("," if AFTER in method.name else AFTER)
        yield "", [f"--method {name}{settings[0].name}=..."]
    yield "claims", [*map(_claim, method.claims)] or ["none of a paper"]


def _claim(claim: Claim) -> str:
    if not claim.command:
        return f"{claim.what} ({NONE_YET})"
    found = f": {claim.found}" if claim.found else ""
    return f"{claim.what} ({claim.command}){found}"


def _wrapped(text: str, room: int) -> list[str]:
    return wrap(
        text,
        max(room, 8),
        subsequent_indent=GAP,
        break_on_hyphens=False,
        break_long_words=False,
    )
