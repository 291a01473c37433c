"""Text that fits the terminal: columns as wide as their cells, lines that break between pieces.

rich shares a width out by squeezing every column. A view here first picks the layout that fits,
and then nothing is squeezed or cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = "  "

Cell = str | Text


@dataclass(frozen=True)
class Flow:
    """Pieces one after the other, broken between pieces where the line ends."""

    pieces: Sequence[str]
    between: str = GAP
    indent: int = 4
    """Columns that the second line and those after it stand back."""
    first: int = 0
    """Columns that the first line stands back."""
    style: str = ""

    def lines(self, width: int) -> list[str]:
        """The lines for a width; a piece that no line can hold is broken between its words."""
        lines: list[str] = []
        for number, piece in enumerate(self.pieces):
            last = number == len(self.pieces) - 1
            text = piece if last else piece + self.between.rstrip()
            glue = self.between[len(self.between.rstrip()) :]
            if lines and cell_len(lines[-1] + glue + text) <= width:
                lines[-1] += glue + text
                continue
            back = " " * (self.indent if lines else self.first)
            lines += wrap(
                text,
                max(width, self.indent + 1),
                initial_indent=back,
                subsequent_indent=" " * self.indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
        return lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(self.lines(options.max_width)), style=self.style)


def sentence(text: str, style: str = "") -> Flow:
    """A text that breaks between its words."""
    return Flow(text.split(" "), " ", style=style)


def listing(text: str) -> Flow:
    """A text that breaks behind its commas: ``kept dense: mlp.up_proj 0-3, mlp.down_proj 7``."""
    return Flow(text.split(", "), ", ")


@dataclass(frozen=True)
class Column:
    """One column of a grid."""

    heading: str
    cells: Sequence[Cell]
    right: bool = False
    """Aligned to the right."""

    @property
    def width(self) -> int:
        """Columns of the terminal that it needs."""
        return max(cell_len(str(cell)) for cell in (self.heading, *self.cells))

    def fill(self, cell: Cell) -> Text:
        """The cell with its blanks."""
        text = cell if isinstance(cell, Text) else Text(cell)
        blanks = Text(" " * (self.width - cell_len(text.plain)))
        return blanks + text if self.right else text + blanks


def width_of(columns: Sequence[Column]) -> int:
    """Columns of the terminal that a grid of these needs."""
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def grid(columns: Sequence[Column], below: Sequence[Sequence[str]] = (), under: int = 1) -> Text:
    """A heading in bold, then one line for each row.

    Args:
        columns: all of as many cells.
        below: row -> further lines that stand below it.
        under: number of the column that these begin in.
    """
    back = " " * (width_of(columns[:under]) + len(GAP))
    lines = [_line(columns, [column.heading for column in columns])]
    lines[0].stylize("bold")
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        lines.append(_line(columns, row))
        lines += [Text(back + text) for text in (below[number] if below else ())]
    return Text("\n").join(lines)


def _line(columns: Sequence[Column], cells: Sequence[Cell]) -> Text:
    line = Text(GAP).join(c.fill(cell) for c, cell in zip(columns, cells, strict=True))
    line.rstrip()
    return line
