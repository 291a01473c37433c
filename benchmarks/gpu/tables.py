"""Tables that read the same as markdown and on a terminal, and how numbers are written in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NONE = "\u2013"
"""A cell without a number."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; ``>`` before a name puts the column to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """A GitHub table with columns of equal width, and a newline at its end."""
        right = [name.startswith(">") for name in self.header]
        names = [_escaped(name.removeprefix(">")) for name in self.header]
        rows = [[_escaped(cell) for cell in row] for row in self.rows]
        widths = [max(3, *(len(row[i]) for row in (names, *rows))) for i in range(len(names))]
        rules = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
        padded = (
            [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
            for row in (names, rules, *rows)
        )
        return "".join(f"| {' | '.join(cells)} |\n" for cells in padded)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of texts.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    kept = tuple(tuple(row) for row in rows)
    if wrong := [row for row in kept if len(row) != len(header)]:
        raise ValueError(f"expected {len(header)} cells, not {wrong[0]}")
    return Table(tuple(header), kept)


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


def percent(share: float | None) -> str:
    """A share: ``95 %``; 100 % is all, never almost all."""
    if share is None:
        return NONE
    rounded = f"{share * 100:.0f}"
    return f"{'99' if share < 1 and rounded == '100' else rounded} %"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
