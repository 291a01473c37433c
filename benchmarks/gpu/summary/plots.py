"""Plots as SVG files that are the same bytes for the same records and the same matplotlib.

matplotlib is imported where something is drawn; what could be drawn is known without it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.report.drawing import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALIGNED, HALF_ALIGNED, MISALIGNED, PAPER = "#14605f", "#6fb3ac", "#d98032", "#9c8ab8"
MORE: dict[Any, Any] = {"lines.solid_capstyle": "round"}
"""Settings beside the style of all plots."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture of a page."""

    name: str
    """Of the file, without suffix."""
    alt: str
    """What it shows, for those who do not see it."""
    draw: Callable[["Figure"], None]
    height_in: float = 3.4

    @property
    def file(self) -> str:
        """``sdpa-head-dim.svg``."""
        return f"{self.name}.svg"

    def markdown(self) -> str:
        """The picture in a page of the same folder."""
        return f"![{self.alt}]({self.file})\n"


def write(plots: Iterable[Plot], folder: Path) -> None:
    """Each plot as ``folder/name.svg``."""
    for plot in plots:
        save(plot, folder / plot.file)


def save(plot: Plot, path: Path) -> None:
    """One plot, in the format of the suffix."""
    with canvas(path, plot.height_in, more=MORE) as figure:
        plot.draw(figure)


def spread(wanted: Sequence[float], least: float) -> list[float]:
    """Places for labels near those wanted, in the same order, at least ``least`` apart."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, list[int]]] = []
    for i in order:
        blocks.append((wanted[i], [i]))
        while len(blocks) > 1 and _gap(blocks[-2], blocks[-1]) < least * _half(blocks):
            (low, first), (high, second) = blocks.pop(-2), blocks.pop()
            both = first + second
            middle = (low * len(first) + high * len(second)) / len(both)
            blocks.append((middle, both))
    places = [0.0] * len(wanted)
    for middle, members in blocks:
        for rank, i in enumerate(members):
            places[i] = middle + (rank - (len(members) - 1) / 2) * least
    return places


def label_right(axes: "Axes", labels: Sequence[tuple[float, str, str]], least: float) -> None:
    """(y, text, colour) beside the right edge, apart from each other.

    Args:
        axes: its y limits are final.
        labels: y in data coordinates.
        least: distance between two labels, as a share of the height.
    """
    transform = axes.transData + axes.transAxes.inverted()
    heights = [float(transform.transform((0.0, y))[1]) for y, _, _ in labels]
    for place, (_, text, colour) in zip(spread(heights, least), labels, strict=True):
        axes.annotate(
            text,
            (1.015, place),
            xycoords="axes fraction",
            color=colour,
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )


def _gap(low: tuple[float, list[int]], high: tuple[float, list[int]]) -> float:
    return high[0] - low[0]


def _half(blocks: list[tuple[float, list[int]]]) -> float:
    """How many labels lie between the middles of the last two blocks."""
    return (len(blocks[-2][1]) + len(blocks[-1][1])) / 2
