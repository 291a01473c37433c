"""A picture of a sweep: loss and forecast time against the parameters that remain.

The same rows and the same matplotlib make the same SVG bytes.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.core.atomic import replacing
from gacfx.errors import CheckpointError, GacError
from gacfx.inspection import FORECAST
from gacfx.sweep import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, FAINT = "#343a40", "#868e96", "#e9ecef"
LOSS, TIME = "#14605f", "#d98032"
SIZE_IN = (8.4, 6.0)
FORMATS = (".svg", ".png")
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
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
}


class NoMatplotlib(GacError):  # noqa: N818 - says what is missing
    """Nothing can be drawn here."""


def can_draw() -> bool:
    """Is matplotlib installed?"""
    try:
        return find_spec("matplotlib") is not None
    except ValueError:  # a module that is blocked has no spec
        return False


def frontier_plot(
    rows: Sequence[Row],
    path: str | Path,
    *,
    title: str = "What every budget buys",
    workload: str = "",
    marked: tuple[int, float] | None = None,
) -> Path:
    """Draw loss with its certified band, and below it the forecast time, as SVG or PNG.

    Args:
        rows: of :func:`gacfx.sweep.sweep`, at least 2.
        path: its suffix is the format.
        title: above both panels.
        workload: of the forecast, for its label.
        marked: (parameters, loss) of a plan to point out.

    Raises:
        NoMatplotlib: matplotlib is not installed.
        CheckpointError: another format, too few rows, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise CheckpointError(f"{path}: a plot is written as {' or '.join(FORMATS)}")
    if len(rows) < 2:
        raise CheckpointError(f"{path}: {len(rows)} rows make no curve; sweep at least 2 budgets")
    if not can_draw():
        raise NoMatplotlib(f"{path}: drawing needs matplotlib: pip install matplotlib")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own settings would change the file
        matplotlib.rcParams.update(STYLE)
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=SIZE_IN, layout=layout)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        figure.suptitle(title, x=0.015, ha="left", weight="bold", size=12)
        _draw_loss(above, rows, marked)
        _draw_time(below, rows, workload)
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        try:
            with replacing(path) as partial:
                figure.savefig(partial, format=path.suffix[1:], dpi=130, metadata=metadata)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error}") from error
    return path


def _draw_loss(axes: "Axes", rows: Sequence[Row], marked: tuple[int, float] | None) -> None:
    """Loss on a logarithmic scale, because it spans many powers of ten."""
    unit, _ = _scale(rows)
    shown = [row for row in rows if row.loss_nats > 0]
    x = [row.params / unit for row in shown]
    loss = [row.loss_nats for row in shown]
    lowest = min(loss, default=1.0)
    bound = [max(row.bound_nats, lowest / 10) for row in shown]
    axes.fill_between(x, bound, loss, color=LOSS, alpha=0.22, linewidth=0, label="certified band")
    axes.plot(x, loss, color=LOSS, linewidth=1.6, marker="o", markersize=3.2, label="best plan")
    if shown:
        axes.set_yscale("log")
    if marked is not None and marked[1] > 0:
        axes.plot(
            marked[0] / unit, marked[1], "o", ms=9, mfc="none", mec=TIME, mew=2, label="this plan"
        )
    axes.set_ylabel(_loss_label(rows))
    axes.set_title(f"Loss, {rows[0].value_model}")
    widest = max(row.gap_nats for row in rows)
    head = f"widest certified gap {widest:.1e}"
    axes.legend(loc="lower left", title=head, alignment="left")
    removed = axes.secondary_xaxis("top", functions=_removed(rows))
    removed.set_xlabel("removed of the targeted weights, %", color=GREY)
    removed.tick_params(length=0, labelcolor=GREY)
    removed.spines["top"].set_visible(False)


def _draw_time(axes: "Axes", rows: Sequence[Row], workload: str) -> None:
    unit, name = _scale(rows)
    x = [row.params / unit for row in rows]
    axes.plot(x, [row.forecast_us / 1e3 for row in rows], color=TIME, linewidth=1.6)
    dense = rows[-1].forecast_us / 1e3
    if rows[-1].dense_share == 1:
        axes.axhline(dense, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            "all dense",
            (x[0], dense),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            color=GREY,
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms, targeted weights")
    axes.set_title(", ".join(filter(None, (f"Time, {FORECAST} forecast", workload))))
    axes.set_xlabel(f"parameters that the targeted weights keep{name}")


def _scale(rows: Sequence[Row]) -> tuple[float, str]:
    most = max(row.params for row in rows)
    for unit, name in ((1e9, ", billions"), (1e6, ", millions"), (1e3, ", thousands")):
        if most >= unit:
            return unit, name
    return 1.0, ""


def _removed(rows: Sequence[Row]) -> tuple[Any, Any]:
    """Parameters -> percent removed, and back."""
    unit, _ = _scale(rows)
    whole = rows[-1].budget_params / max(1 - rows[-1].ratio, 1e-12)
    return (
        lambda kept: 100 * (1 - kept * unit / whole),
        lambda percent: (1 - percent / 100) * whole / unit,
    )


def _loss_label(rows: Sequence[Row]) -> str:
    model = rows[0].value_model
    if "paper" in model:
        return "importance x parameters"
    return "loss, summed shares" if model == "relative" else "rise of the loss, nats per token"
