"""Tables as markdown and as plain text, and how numbers are written in them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NONE = "\u2013"
"""A cell without a number."""
ABSENT = "Not measured in this run.\n"
_MARKS = re.compile(r"\*\*|`|</?sub>|\[([^]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; ``>`` before a name puts the column to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """A GitHub table, with a newline at its end."""
        names = [name.removeprefix(">") for name in self.header]
        rules = ["---:" if name.startswith(">") else "---" for name in self.header]
        lines = [names, rules, *([_escaped(cell) for cell in row] for row in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def text(self) -> str:
        """Columns of equal width for a terminal, marks of markdown left out."""
        lines = [[name.removeprefix(">") for name in self.header]]
        lines += [[_plain(cell) for cell in row] for row in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        right = [name.startswith(">") for name in self.header]
        padded = (
            [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
            for line in lines
        )
        return "".join(f"{'  '.join(cells).rstrip()}\n" for cells in padded)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of texts.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    kept = tuple(tuple(row) for row in rows)
    if wrong := [row for row in kept if len(row) != len(header)]:
        raise ValueError(f"expected {len(header)} cells, not {wrong[0]}")
    return Table(tuple(header), kept)


def folded(summary: str, body: str) -> str:
    """A part of the page that opens on a click."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n</details>\n"


def folded_table(summary: str, found: Table) -> list[str]:
    """A folded table; nothing if it has no rows."""
    return [folded(summary, found.markdown())] if found.rows else []


def filled(found: Table, before: str = "") -> list[str]:
    """A table with a line before it; nothing if it has no rows."""
    return [*([before] if before else []), found.markdown()] if found.rows else []


def section(title: str, body: Sequence[str]) -> list[str]:
    """A heading and what stands below it; says so if that is nothing."""
    return [f"## {title}\n", *(body or [ABSENT])]


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never fewer than all digits before the point: ``1,234``."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if before >= digits:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.{digits - before}f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def ms(us: float | None) -> str:
    """Microseconds as milliseconds."""
    return NONE if us is None else number(us / 1e3)


def times(value: float | None) -> str:
    """A ratio: ``1.25×``."""
    return NONE if value is None else f"{value:.2f}\u00d7"


def percent(share: float | None, digits: int = 0) -> str:
    """A share: ``95 %``; 100 % is all, never almost all."""
    if share is None:
        return NONE
    text = f"{share * 100:.{digits}f}"
    if share < 1 and float(text) >= 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def over(value: float | None, base: float | None) -> float | None:
    """``value / base``; None where one of them is missing."""
    return value / base if value is not None and base else None


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _plain(cell: str) -> str:
    return _MARKS.sub(lambda match: match[1] or "", cell).replace("<br>", " ")
