"""Pictures of the papers' sweeps: sizes coloured by what divides them, the paper's numbers thin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.gpu.summary import figures, paper
from benchmarks.gpu.summary.figures import Figure as Sweep
from benchmarks.gpu.summary.figures import Point
from benchmarks.gpu.summary.plots import (
    ALIGNED,
    HALF_ALIGNED,
    MISALIGNED,
    PAPER,
    Plot,
    label_right,
)
from benchmarks.gpu.summary.records import Records
from gacfx.report.drawing import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADROOM = 1.08
NEAR = 2.5
"""The paper's numbers are drawn if the axis needs no more than this to hold them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Sizes that look the same."""

    label: str
    colour: str
    filled: bool
    steps: tuple[int, int | None]
    """(what divides them, what does not)."""

    def holds(self, size: int) -> bool:
        """Is a size of this kind?"""
        step, never = self.steps
        return size % step == 0 and (never is None or size % never != 0)


KINDS = (
    Kind("other sizes", MISALIGNED, False, (1, 8)),
    Kind("multiples of 8", HALF_ALIGNED, True, (8, 16)),
    Kind("multiples of 16", ALIGNED, True, (16, None)),
)


@dataclass(frozen=True, slots=True)
class Band:
    """What the paper says of some sizes: a line, or a range."""

    number: paper.Number
    label: str

    @property
    def low(self) -> float:
        """Lower edge."""
        return self.number.value

    @property
    def high(self) -> float:
        """Upper edge; the lower one for a line."""
        return self.number.upper or self.number.value


_RATES = (
    Band(paper.TENSOR_CORE_ALIGNED, "aligned"),
    Band(paper.TENSOR_CORE_MISALIGNED, "others"),
)
BANDS: dict[str, tuple[Band, ...]] = {
    "gemm-k": (Band(paper.GEMM_K_ALIGNED, "aligned"), Band(paper.GEMM_K_MISALIGNED, "others")),
    "tensor-core-k": _RATES,
    "tensor-core-n": _RATES,
}
"""GAC-v2 Fig. 7 and 8."""
PANELS = (
    ("sdpa-head-dim", ("sdpa-head-dim",), "Attention time by head dim", 3.8),
    ("gemm-sweeps", ("gemm-m", "gemm-n", "gemm-k"), "GEMM time, one size swept", 3.2),
    ("gemm-sawtooth", ("gemm-sawtooth",), "GEMM time by output width", 3.2),
    ("gemv", ("gemv-k", "gemv-n"), "GEMV time near 4096", 3.0),
    ("tensor-core", ("tensor-core-k", "tensor-core-n"), "Matmul rate near 4096", 3.2),
    ("row-read", ("row-read",), "Bandwidth of reading one sector of each row", 3.0),
)
"""(file, figures side by side, what it shows, height in inches)."""


def call_plots(records: Records) -> list[Plot]:
    """The pictures whose points are there."""
    return [
        Plot(
            name=name,
            alt=f"{alt}, {records.device}",
            draw=lambda figure, panels=panels: _draw(figure, panels),  # type: ignore[misc]
            height_in=height,
        )
        for name, wanted, alt, height in PANELS
        if (panels := _present(records, wanted))
    ]


def _present(records: Records, wanted: Sequence[str]) -> list[tuple[Sweep, list[Point]]]:
    found = [(figures.BY_NAME[name], figures.points(records, name)) for name in wanted]
    return [(sweep, points) for sweep, points in found if points]


def _draw(figure: "Figure", panels: Sequence[tuple[Sweep, list[Point]]]) -> None:
    rows = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    data = max(_largest(sweep, points) for sweep, points in panels)
    published = max(_published_top(sweep) for sweep, _ in panels)
    top = HEADROOM * (max(data, published) if published <= NEAR * data else data)
    for axes, (sweep, points) in zip(rows[0], panels, strict=True):
        axes.set_ylim(0, top)
        _published(axes, sweep, top)
        _sweep(axes, sweep, points)
    rows[0][0].set_ylabel(_unit(panels[0][0])[1])
    label_right(rows[0][-1], _labels(panels, top), least=0.075)


def _sweep(axes: "Axes", sweep: Sweep, points: Sequence[Point]) -> None:
    line = [(x, y) for x, y in _values(sweep, points) if x % 8 == 0]
    axes.plot(*_columns(line), color=HALF_ALIGNED, linewidth=0.8, alpha=0.6, zorder=2)
    for depth, kind in enumerate(KINDS):
        axes.plot(
            *_columns([(x, y) for x, y in _values(sweep, points) if kind.holds(x)]),
            linestyle="none",
            marker="o",
            markersize=3.6 if kind.filled else 2.6,
            markerfacecolor=kind.colour if kind.filled else "white",
            markeredgecolor=kind.colour,
            markeredgewidth=0.8,
            zorder=3 + depth,
        )
    axes.plot(
        *_columns(_floors(sweep, points)),
        color=GREY,
        linewidth=0.9,
        linestyle=(0, (1, 2)),
        zorder=2,
    )
    axes.set_title(sweep.title)
    axes.set_xlabel(_axis(sweep))
    axes.margins(x=0.02)
    if sweep.field == "d":
        axes.set_xticks(range(64, 257, 32))


def _published(axes: "Axes", sweep: Sweep, top: float) -> None:
    """The paper's numbers, thin and behind ours; in words where the axis does not reach them."""
    if sweep.name == "sdpa-head-dim" and _published_top(sweep) <= top:
        for region in paper.REGIONS:
            single = region.to == region.above + 1
            edges = [region.to if single else region.above, region.to]
            high = region.ms.upper or region.ms.value
            axes.fill_between(
                *(edges, region.ms.value, high), color=PAPER, alpha=0.2, linewidth=0, zorder=1
            )
            line = axes.plot(edges, [region.ms.value] * 2, color=PAPER, linewidth=1.1, zorder=1)
            line[0].set_marker("_" if single else "None")
    bands = BANDS.get(sweep.name, ())
    inside = [band for band in bands if band.high <= top]
    for band in inside:
        axes.axhspan(band.low, band.high, color=PAPER, alpha=0.2, linewidth=0, zorder=0)
        axes.axhline(band.low, color=PAPER, linewidth=0.8, alpha=0.7, zorder=0)
    if bands and not inside:
        said = ", ".join(f"{band.label} {band.number.text()}" for band in bands)
        axes.text(
            *(0.98, 0.03, f"{paper.A100}:\n{said}"),
            transform=axes.transAxes,
            color=PAPER,
            fontsize=8,
            ha="right",
            va="bottom",
        )


def _labels(
    panels: Sequence[tuple[Sweep, list[Point]]], top: float
) -> list[tuple[float, str, str]]:
    """Direct labels at the right edge, where the last panel's lines end."""
    sweep, points = panels[-1]
    values = _values(sweep, points)
    made = []
    for kind in KINDS:
        own = [y for x, y in values if kind.holds(x)]
        if own:
            made.append((own[-1], kind.label, kind.colour))
    if floors := _floors(sweep, points):
        made.append((floors[-1][1], "floor" if sweep.unit == "us" else "ceiling", GREY))
    if sweep.name == "sdpa-head-dim" and _published_top(sweep) <= top:
        made.append((_published_top(sweep), f"{paper.A100}, GAC-v2", PAPER))
    shown = [band for band in BANDS.get(sweep.name, ()) if band.high <= top]
    return made + [((b.low + b.high) / 2, f"{paper.A100}, {b.label}", PAPER) for b in shown]


def _values(sweep: Sweep, points: Sequence[Point]) -> list[tuple[int, float]]:
    """(size, what the axis shows)."""
    scale = _unit(sweep)[0]
    return [
        (size, value * scale)
        for size, call in points
        if (value := figures.value(call, sweep.unit)) is not None
    ]


def _floors(sweep: Sweep, points: Sequence[Point]) -> list[tuple[int, float]]:
    """The floor as a time, or the rate that it allows."""
    scale = _unit(sweep)[0]
    kept = []
    for size, call in points:
        amount = call.entry.number("flops" if sweep.unit == "TFLOPS" else "bytes")
        if call.floor_us and amount is not None:
            rate = amount / (call.floor_us * (1e6 if sweep.unit == "TFLOPS" else 1e3))
            kept.append((size, (call.floor_us if sweep.unit == "us" else rate) * scale))
    return kept


def _largest(sweep: Sweep, points: Sequence[Point]) -> float:
    values = [*_values(sweep, points), *_floors(sweep, points)]
    return max((y for _, y in values), default=1.0)


def _published_top(sweep: Sweep) -> float:
    """The paper's largest number for a sweep; 0 if it has none."""
    if sweep.name == "sdpa-head-dim":
        return max(region.ms.upper or region.ms.value for region in paper.REGIONS)
    return max((band.high for band in BANDS.get(sweep.name, ())), default=0.0)


def _columns(line: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in line], [y for _, y in line]


def _unit(sweep: Sweep) -> tuple[float, str]:
    """(factor, axis label); attention is shown in milliseconds, as the paper does."""
    return (1e-3, "ms") if sweep.name == "sdpa-head-dim" else (1.0, str(sweep.unit))


def _axis(sweep: Sweep) -> str:
    words = {"d": "head dim", "stride": "row stride, elements of fp16"}
    return words.get(sweep.field, sweep.field.upper())
