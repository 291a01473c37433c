"""The papers' sweeps: what a misaligned size costs here, and what the papers say it costs."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.summary import paper
from benchmarks.gpu.summary.calls import Call, calls
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.summary.tables import NONE, Table, ms, number, over, percent, table, times

Unit = Literal["us", "TFLOPS", "GB/s"]
Point = tuple[int, Call]
"""(swept size, call)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One sweep of a paper."""

    name: str
    title: str
    where: str
    field: str
    """The size that is swept."""
    unit: Unit
    multiple: int
    """What the paper calls aligned, in elements of fp16."""
    published: str


FIGURES = (
    Figure(
        *("sdpa-head-dim", "SDPA, B 4, S 2048, H 32", "GAC-v2 Fig. 5, 12", "d", "us", 8),
        f"d 129: +{paper.SDPA_STEP.text()}",
    ),
    Figure(
        *("gemm-m", "GEMM M x 128 x 2048", "GAC-v2 Fig. 7", "m", "us", 8),
        f"M 1729: +{paper.GEMM_M_CLIFF.text()}",
    ),
    Figure(
        *("gemm-n", "GEMM 2048 x 128 x N", "GAC-v2 Fig. 7", "n", "us", 8),
        f"up to +{paper.PENALTIES['gemm'].text()}",
    ),
    Figure(
        *("gemm-k", "GEMM 2048 x K x 2048", "GAC-v2 Fig. 7", "k", "us", 8),
        f"up to +{paper.PENALTIES['gemm'].text()}",
    ),
    Figure(
        *("gemm-sawtooth", "GEMM 2048 x 4096 x N", "GAC-v1 Fig. 4", "n", "us", 16),
        "fast at N % 16 == 0",
    ),
    Figure(
        *("gemv-k", "GEMV 1 x K x 4096", "GAC-v2 Fig. 6", "k", "us", 8),
        f"+{paper.GEMV['gemv-k'].text()}",
    ),
    Figure(
        *("gemv-n", "GEMV 1 x 4096 x N", "GAC-v2 Fig. 6", "n", "us", 8),
        f"+{paper.GEMV['gemv-n'].text()}",
    ),
    Figure(
        *("tensor-core-k", "GEMM 4096 x K x 4096", "GAC-v2 Fig. 8a", "k", "TFLOPS", 16),
        f"-{paper.PENALTIES['tensor core'].text()}",
    ),
    Figure(
        *("tensor-core-n", "GEMM 4096 x 4096 x N", "GAC-v2 Fig. 8b", "n", "TFLOPS", 8),
        f"-{paper.PENALTIES['tensor core'].text()}",
    ),
    Figure(
        *("row-read", "one sector of each row", "GAC-v2 Fig. 8c", "stride", "GB/s", 16),
        f"-{paper.PENALTIES['sectors'].text()}",
    ),
)
STEPS = (
    ("sdpa-head-dim", 128, 129, paper.SDPA_STEP),
    ("gemm-m", 1728, 1729, paper.GEMM_M_CLIFF),
)
"""(figure, size before, size after, what the paper says)."""
BY_NAME = {figure.name: figure for figure in FIGURES}


@dataclass(frozen=True, slots=True)
class Penalty:
    """A misaligned size against the next aligned one, which does at least as much work."""

    size: int
    ratio: float
    """Time of the misaligned one over time of the aligned one."""


def points(records: Records, name: str) -> list[Point]:
    """The measured points of a figure by size."""
    field = BY_NAME[name].field
    found = [call for call in calls(records, "figures") if call.label == name]
    return sorted(((int(call.case[field]), call) for call in found), key=lambda point: point[0])


def median_us(call: Call) -> float | None:
    """Warm, as the papers measured; cold where there is no warm time."""
    found = call.warm or call.cold
    return None if found is None else found.median_us


def value(call: Call, unit: Unit) -> float | None:
    """The quantity that a figure shows."""
    us = median_us(call)
    if us is None or unit == "us":
        return us
    amount = call.entry.number("flops" if unit == "TFLOPS" else "bytes")
    return over(amount, us * (1e6 if unit == "TFLOPS" else 1e3))


def penalties(found: Sequence[Point], multiple: int) -> list[Penalty]:
    """What each size that is no multiple of 8 costs against the next aligned one."""
    known = [(size, us) for size, call in found if (us := median_us(call)) is not None]
    aligned = {size: us for size, us in known if size % multiple == 0}
    return [
        Penalty(size, us / aligned[up])
        for size, us in known
        if size % 8 and (up := -(-size // multiple) * multiple) in aligned
    ]


def figures_table(records: Records) -> Table:
    """One row for each figure: what misalignment costs here and in the paper."""
    rows = []
    for figure in FIGURES:
        found = points(records, figure.name)
        if not found:
            continue
        costs = penalties(found, figure.multiple)
        worst = max(costs, key=lambda cost: cost.ratio, default=None)
        half = [p for p in found if p[0] % 8 == 0 and p[0] % figure.multiple]
        rows.append(
            (
                f"{figure.title}<br><sub>{figure.where}, {len(found)} points</sub>",
                _median_value([p for p in found if p[0] % figure.multiple == 0], figure),
                _median_value(half, figure),
                _median_value([p for p in found if p[0] % 8], figure),
                change(statistics.median(cost.ratio for cost in costs)) if costs else NONE,
                f"{change(worst.ratio)} at {worst.size}" if worst else NONE,
                figure.published,
            )
        )
    header = (
        "sweep",
        ">aligned",
        ">only multiples of 8",
        ">misaligned",
        ">costs, median",
        ">costs, worst",
    )
    return table((*header, f"{paper.A100}, rate or time"), rows)


def steps_table(records: Records) -> Table:
    """The single steps that the papers name."""
    rows = []
    for name, low, high, said in STEPS:
        found = dict(points(records, name))
        if {low, high} <= found.keys():
            before, after = median_us(found[low]), median_us(found[high])
            field = BY_NAME[name].field
            rows.append(
                (
                    f"{BY_NAME[name].title}: {field} {low} to {high}",
                    f"+{said.text()}",
                    change(ratio) if (ratio := over(after, before)) else NONE,
                    f"{number(before)} to {number(after)}",
                    f"{number(found[low].floor_us)} to {number(found[high].floor_us)}",
                )
            )
    header = ("step", f">{paper.A100}", ">here", ">us", ">floor, us")
    return table(header, rows)


def table_2(records: Records) -> Table:
    """GAC-v2's Table 2 beside the multiples of 8 measured here."""
    found = points(records, "sdpa-head-dim")
    base = _median(call for d, call in found if d == paper.REGIONS[0].to)
    rows = []
    for region in paper.REGIONS:
        inside = [call for d, call in found if region.above < d <= region.to and d % 8 == 0]
        us = _median(inside)
        published = paper.REGIONS[0].ms.value
        rows.append(
            (
                region.ms.what,
                region.ms.text(),
                times(region.ms.value / published),
                ms(us),
                times(over(us, base)),
                times(_of_floor(inside)),
            )
        )
    header = ("head dim", f">{paper.TABLE_2}, {paper.A100}", ">of d 64", ">here, ms", ">of d 64")
    return table((*header, ">of floor"), rows)


def change(ratio: float) -> str:
    """``+25 %``."""
    return f"{'+' if ratio >= 1 else ''}{percent(ratio - 1)}"


def _median_value(group: Sequence[Point], figure: Figure) -> str:
    """``4.76 us (2.31×)``: the median, and its distance to the floor."""
    values = [v for _, call in group if (v := value(call, figure.unit)) is not None]
    if not values:
        return NONE
    distance = _of_floor(call for _, call in group)
    shown = f"{number(statistics.median(values))} {figure.unit}"
    return shown if distance is None else f"{shown}<br><sub>{times(distance)} floor</sub>"


def _of_floor(group: Iterable[Call]) -> float | None:
    """Median of cold time over floor: the floor reads every operand from memory."""
    ratios = [
        call.cold.median_us / call.floor_us
        for call in group
        if call.cold is not None and call.floor_us
    ]
    return statistics.median(ratios) if ratios else None


def _median(group: Iterable[Call]) -> float | None:
    found = [us for call in group if (us := median_us(call)) is not None]
    return statistics.median(found) if found else None
