"""A picture of the numbers: excess loss at every ratio, and what was promised against measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.report import drawing
from gacfx.report.drawing import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#adb5bd", "#495057", "#7a5195", "#d98032", "#c2413b", "#14605f", "#0b3d91")
HEIGHT_IN = 4.4
LEAST = 1e-4
"""Nats below which nothing is drawn: a logarithm has no place for an excess of zero or less."""
FACTOR = 2.0
"""Of the band around the diagonal."""
MORE: dict[Any, Any] = {"legend.frameon": False}

Row = Mapping[str, Any]


def plot(rows: Sequence[Row], path: Path, model: str) -> Path:
    """Draw the rows, SVG or PNG.

    Args:
        rows: with ``row``, ``ratio``, ``excess_nats`` and ``promised_nats``; failed ones are left
            out.
        path: its suffix is the format.
        model: in the title.

    Raises:
        NoMatplotlib: matplotlib is not installed.
        CheckpointError: another format, or a file that cannot be written.
    """
    rows = [row for row in rows if not row["failed"]]
    labels = list(dict.fromkeys(row["row"] for row in rows))
    colours = {label: COLOURS[at % len(COLOURS)] for at, label in enumerate(labels)}
    with drawing.canvas(path, HEIGHT_IN, pad_in=0.1, more=MORE) as figure:
        left, right = figure.subplots(1, 2)
        figure.suptitle(f"Excess loss over dense: {model}", x=0.012, ha="left", weight="bold")
        _excess(left, rows, colours)
        _promises(right, rows, colours)
    return path


def _excess(axes: "Axes", rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    for label, colour in colours.items():
        own = sorted((float(r["ratio"]), r["excess_nats"]) for r in rows if r["row"] == label)
        drawn = [(100 * ratio, nats) for ratio, nats in own if nats >= LEAST]
        places, nats = [x for x, _ in drawn], [y for _, y in drawn]
        axes.plot(places, nats, "-o", color=colour, markersize=4, linewidth=1.4, label=label)
    axes.set_yscale("log")
    axes.set_xticks(sorted({100 * float(row["ratio"]) for row in rows}))
    axes.set_xlabel("removed of the targeted parameters, %")
    axes.set_ylabel("rise of the loss, nats per token")
    axes.legend(loc="lower right", fontsize=7.5)


def _promises(axes: "Axes", rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    shown = [row for row in rows if (row["promised_nats"] or 0) >= LEAST <= row["excess_nats"]]
    for row in shown:
        place: dict[str, Any] = {"color": colours[row["row"]], "markersize": 5}
        axes.plot(row["promised_nats"], row["excess_nats"], "o", **place)
    values = [row[key] for row in shown for key in ("promised_nats", "excess_nats")]
    ends = [min(values, default=LEAST) / FACTOR, max(values, default=1.0) * FACTOR]
    low, high = ([end / FACTOR for end in ends], [end * FACTOR for end in ends])
    axes.fill_between(ends, low, high, color=GREY, alpha=0.15, linewidth=0)
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("promised by the plan, nats per token")
    axes.set_ylabel("measured; shaded: within a factor of two")
