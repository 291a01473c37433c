"""A picture of a sweep: loss against the parameters that remain, and against the forecast time.

Both panels show the same plans with one scale of loss, so that a loss can be read off as parameters
on the left and as time on the right.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gacfx.compressors.values import IMPORTANCE, NATS, SHARE, unit_of
from gacfx.core.files.targets import check_file
from gacfx.errors import CheckpointError, NoMatplotlib
from gacfx.report import drawing
from gacfx.report.drawing import GREY, can_draw
from gacfx.sweep import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Mark", "NoMatplotlib", "can_draw", "frontier_plot"]

LOSS, TIME, MARK = "#14605f", "#d98032", "#343a40"
HEIGHT_IN = 4.4
MORE: dict[Any, Any] = {"ytick.minor.size": 0.0, "legend.frameon": False}
"""Settings of this plot beside the style of all."""


class Mark(NamedTuple):
    """A plan to point out."""

    params: int
    loss_nats: float
    forecast_us: float


def frontier_plot(
    rows: Sequence[Row],
    path: str | Path,
    *,
    title: str = "What every budget buys",
    workload: str = "",
    forecast: str = "rule-based",
    marked: Mark | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw loss with its certified band against parameters and against time, as SVG or PNG.

    Args:
        rows: of :func:`gacfx.sweep.sweep`, at least 2.
        path: its suffix is the format.
        title: above both panels.
        workload: of the forecast, for its label.
        forecast: where the times come from, likewise.
        marked: a plan to point out.
        overwrite: replace a file that is there.

    Raises:
        NoMatplotlib: matplotlib is not installed.
        CheckpointError: another format, too few rows, a file that exists and ``overwrite`` is
            false, or one that cannot be written.
    """
    path = Path(path)
    if len(rows) < 2:
        raise CheckpointError(f"{path}: {len(rows)} rows make no curve; sweep at least 2 budgets")
    drawing.check_target(path)
    check_file(path, overwrite=overwrite)
    with drawing.canvas(path, HEIGHT_IN, pad_in=0.1, more=MORE, overwrite=overwrite) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        figure.suptitle(title, x=0.012, ha="left", weight="bold", size=12)
        unit, name = _scale(rows)
        _draw(left, rows, lambda row: row.params / unit, LOSS)
        left.set_ylabel(_loss_label(rows))
        left.set_xlabel(f"parameters that the targeted weights keep{name}")
        _removed(left, rows, unit)
        _draw(right, rows, lambda row: row.forecast_us / 1e3, TIME)
        right.set_xlabel(f"ms, {', '.join(filter(None, (f'{forecast} forecast', workload)))}")
        _share(right, rows)
        if marked is not None and marked.loss_nats > 0:
            _point_out(left, marked.params / unit, marked.loss_nats, "this plan")
            _point_out(right, marked.forecast_us / 1e3, marked.loss_nats, "")
        widest = max(row.gap_nats for row in rows)
        head = f"{rows[0].value_model}\nwidest certified gap {widest:.1e}"
        left.legend(loc="lower left", title=head, alignment="left")
    return path


def _draw(axes: "Axes", rows: Sequence[Row], place: Callable[[Row], float], colour: str) -> None:
    """Loss on a logarithmic scale, because it spans many powers of ten."""
    shown = [row for row in rows if row.loss_nats > 0]
    x, loss = [place(row) for row in shown], [row.loss_nats for row in shown]
    lowest = min(loss, default=1.0)
    bound = [max(row.bound_nats, lowest / 10) for row in shown]
    axes.fill_between(x, bound, loss, color=colour, alpha=0.22, linewidth=0, label="certified band")
    axes.plot(x, loss, color=colour, linewidth=1.5, marker="o", markersize=2.8, label="best plan")
    if shown:
        axes.set_yscale("log")
    every = [place(row) for row in rows]  # the dense end has no loss to draw, and is a place
    room = 0.03 * (max(every) - min(every)) or 1.0
    axes.set_xlim(min(every) - room, max(every) + room)


def _point_out(axes: "Axes", x: float, loss: float, label: str) -> None:
    ring: dict[str, Any] = {"ms": 9, "mfc": "none", "mec": MARK, "mew": 1.6, "linestyle": "none"}
    axes.plot(x, loss, "o", label=label or None, **ring)


def _removed(axes: "Axes", rows: Sequence[Row], unit: float) -> None:
    """A second scale above: percent that are removed."""
    whole = rows[-1].budget_params / max(1 - rows[-1].ratio, 1e-12) / unit
    _above(
        axes,
        "removed of the targeted weights, %",
        lambda kept: 100 * (1 - kept / whole),
        lambda percent: (1 - percent / 100) * whole,
    )


def _share(axes: "Axes", rows: Sequence[Row]) -> None:
    """A second scale above: percent of the dense time, if the last plan is all dense."""
    if rows[-1].dense_share < 1:
        return
    dense = rows[-1].forecast_us / 1e3
    axes.axvline(dense, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    _above(
        axes,
        "share of the dense weights' time, %",
        lambda ms: 100 * ms / dense,
        lambda percent: percent * dense / 100,
    )


def _above(axes: "Axes", label: str, there: Any, back: Any) -> None:
    """A scale on top; ``there`` and ``back`` turn arrays of one scale into the other."""
    scale = axes.secondary_xaxis("top", functions=(there, back))
    scale.set_xlabel(label, color=GREY, labelpad=6)
    scale.tick_params(length=0, labelcolor=GREY, pad=2)
    scale.spines["top"].set_visible(False)


def _scale(rows: Sequence[Row]) -> tuple[float, str]:
    most = max(row.params for row in rows)
    for unit, name in ((1e9, ", billions"), (1e6, ", millions"), (1e3, ", thousands")):
        if most >= unit:
            return unit, name
    return 1.0, ""


def _loss_label(rows: Sequence[Row]) -> str:
    unit = unit_of(rows[0].value_model)
    known = {
        IMPORTANCE: "importance x parameters",
        SHARE: "loss, summed shares",
        NATS: "rise of the loss, nats per token",
    }
    return known.get(unit, f"loss, {unit}")
