"""Plots as SVG files that are the same bytes for the same records and the same matplotlib.

matplotlib is imported where something is drawn; what could be drawn is known without it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.core.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, FAINT = "#343a40", "#868e96", "#e9ecef"
ALIGNED, HALF_ALIGNED, MISALIGNED, PAPER = "#14605f", "#6fb3ac", "#d98032", "#9c8ab8"
WIDTH_IN = 8.4
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "gacfx",  # ids of the file's elements; random otherwise
    "svg.fonttype": "path",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.solid_capstyle": "round",
}


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


def can_draw() -> bool:
    """Is matplotlib installed?"""
    try:
        return find_spec("matplotlib") is not None
    except ValueError:  # a module that is blocked has no spec
        return False


def write(plots: Iterable[Plot], folder: Path) -> None:
    """Each plot as ``folder/name.svg``."""
    for plot in plots:
        save(plot, folder / plot.file)


def save(plot: Plot, path: Path) -> None:
    """One plot, in the format of the suffix."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own settings would change the file
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH_IN, plot.height_in), layout="constrained")
        plot.draw(figure)
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=130, metadata=metadata)


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
