"""Pictures of whole models: times over sequence lengths, and bars of one length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.gpu.summary import paper
from benchmarks.gpu.summary.models import HEADLINE_SEQ, Cell, Timings, timings, title
from benchmarks.gpu.summary.plots import PAPER, Plot, label_right
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.summary.tables import ms, over, times
from gacfx.report.drawing import GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS: dict[str, tuple[str, str, str]] = {
    "dense": (INK, "-", "full"),
    "asvd": ("#5f9f9c", "-", "none"),
    "asvd-aligned": ("#1c7a78", "-", "full"),
    "asvd-padded": ("#1c7a78", "--", "none"),
    "default": ("#2b6cb0", "-", "full"),
    "default-64": ("#2b6cb0", "-", "none"),
    "uniform": ("#90a4b8", "-", "full"),
    "pruner": ("#c07f9d", "-", "none"),
    "pruner-aligned": ("#99466f", "-", "full"),
    "pruner-padded": ("#99466f", "--", "none"),
}
"""Variant -> (colour, line, marker filled): unaligned is pale and hollow, padded is dashed."""
OTHER = (GREY, ":", "none")


def model_plots(records: Records) -> list[Plot]:
    """The pictures whose timings are there."""
    found = timings(records)
    made = []
    at = found.headline("prefill")
    if at is not None:
        lengths = _lengths(found, at)
        if len(lengths) > 1:
            alt = f"Llama-3-8B, prefill over sequence lengths, {records.device}"
            made.append(Plot("prefill-lengths", alt, lambda f: _lines(f, found, lengths), 3.9))
        alt = f"Llama-3-8B, {at.text()}, {records.device}"
        made.append(_bar_plot("prefill", alt, found, at))
    step = found.headline("decode")
    if step is not None:
        alt = f"Llama-3-8B, {step.text()}, {records.device}"
        made.append(_bar_plot("decode", alt, found, step))
    return made


def _lengths(found: Timings, at: Cell) -> list[Cell]:
    same = (at.mode, at.batch, at.layers)
    return [c for c in found.cells(at.phase) if (c.mode, c.batch, c.layers) == same]


def _lines(figure: "Figure", found: Timings, cells: Sequence[Cell]) -> None:
    from matplotlib.ticker import LogLocator

    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    labels = []
    for variant in found.variants(cells):
        known = [(c.seq, us) for c in cells if (us := found.us(c, variant)) is not None]
        _line(left, variant, [(seq, us / 1e3) for seq, us in known])
        ratios = [(c.seq, r) for c in cells if (r := over(found.us(c, variant), found.dense_us(c)))]
        _line(right, variant, ratios)
        if ratios:
            labels.append((ratios[-1][1], title(variant), _look(variant)[0]))
    left.set(xscale="log", yscale="log", title="prefill, ms", xlabel="tokens")
    right.set(xscale="log", title="times dense", xlabel="tokens")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.set_xticks([c.seq for c in cells], [str(c.seq) for c in cells])
        axes.minorticks_off()
    label_right(right, labels, least=0.068)


def _line(axes: "Axes", variant: str, points: Sequence[tuple[int, float]]) -> None:
    colour, style, fill = _look(variant)
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=colour,
        linestyle=style,
        linewidth=1.4,
        marker="o",
        markersize=4.0,
        markerfacecolor=colour if fill == "full" else "white",
        markeredgewidth=1.0,
    )


def _bar_plot(name: str, alt: str, found: Timings, at: Cell) -> Plot:
    height = 1.0 + 0.28 * len(found.variants([at]))
    return Plot(name, alt, lambda figure: _bars(figure, found, at), height)


def _bars(figure: "Figure", found: Timings, at: Cell) -> None:
    """One bar for each variant, its floor as a grey tick, the paper's ratio as a violet one."""
    axes = figure.subplots()
    variants = found.variants([at])[::-1]
    dense_us = found.dense_us(at)
    assert dense_us is not None
    for row, variant in enumerate(variants):
        timing = found.get(at, variant)
        assert timing is not None
        _bar(axes, row, variant, timing.us / 1e3)
        text = f"{ms(timing.us)} ms   {times(timing.us / dense_us)}"
        axes.annotate(
            text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )
        if timing.floor_us:
            _tick(axes, timing.floor_us / 1e3, row, GREY)
        if (ratio := _published_ratio(at, variant)) is not None:
            _tick(axes, ratio * dense_us / 1e3, row, PAPER)
    axes.axvline(dense_us / 1e3, color=INK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    axes.set_yticks(range(len(variants)), [title(variant) for variant in variants])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.04, y=0.02)
    axes.set_xlabel(f"ms, {at.text()}")
    _legend(axes, with_paper=any(_published_ratio(at, variant) for variant in variants))


def _bar(axes: "Axes", row: int, variant: str, width_ms: float) -> None:
    colour, style, fill = _look(variant)
    axes.barh(
        *(row, width_ms),
        height=0.62,
        color=colour if fill == "full" else "white",
        edgecolor=colour,
        linewidth=1.1,
        linestyle=style,
        zorder=2,
    )


def _tick(axes: "Axes", x: float, row: int, colour: str) -> None:
    for width, shade in ((3.4, "white"), (1.6, colour)):
        axes.plot([x, x], [row - 0.4, row + 0.4], color=shade, linewidth=width, zorder=3)


def _legend(axes: "Axes", *, with_paper: bool) -> None:
    from matplotlib.lines import Line2D

    entries = [("floor", GREY)] + [("GAC-v2's ratio to dense, A100", PAPER)] * with_paper
    axes.legend(
        handles=[
            Line2D([], [], color=colour, label=text, marker="|", linestyle="none", markersize=9)
            for text, colour in entries
        ],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
        borderpad=0.1,
    )


def _published_ratio(at: Cell, variant: str) -> float | None:
    """Table 5's time over its dense time; None for another length or variant."""
    if at.phase != "prefill" or at.seq != HEADLINE_SEQ or variant not in paper.PREFILL_MS:
        return None
    return paper.PREFILL_MS[variant].value / paper.PREFILL_MS["dense"].value


def _look(variant: str) -> tuple[str, str, str]:
    return LOOKS.get(variant, OTHER)
