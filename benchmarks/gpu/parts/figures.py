"""The sweeps behind the papers' figures, at the papers' sizes and in their dtype, fp16.

figure            paper               sizes
sdpa-head-dim     GAC-v2 5, 12        B 4, S 2048, H 32, d 64...256
gemm-m, -n, -k    GAC-v2 7            M = N = 2048, K = 128; one of them from half to whole
gemm-sawtooth     GAC-v1 4            M 2048, K 4096, N 3968...4224
gemv-k, -n        GAC-v2 6            M = 1, K or N around 4096 in steps of 1
tensor-core-k, -n GAC-v2 8a, 8b, 13   M = 4096, K or N around 4096 in steps of 1
row-read          GAC-v2 8c, 13       windows of one sector, row stride around 4096
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.parts.stride import StridedRead
from gacfx.hardware.measure.cases.attention import Attention
from gacfx.hardware.measure.cases.gemm import Gemm
from gacfx.hardware.measure.cases.measured import line, measure_case
from gacfx.hardware.measure.part import Result, Setting

DTYPE = "fp16"
AROUND = range(4064, 4129)
"""K or N near 4096, in steps of 1: two periods of 32 on either side."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a figure."""

    figure: str
    op: str
    """``gemm``, ``attention`` or ``stride``."""
    case: Gemm | Attention | StridedRead


class Figures:
    """Sweep by sweep, the cliffs of each first."""

    name = "figures"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def items(self) -> Sequence[Point]:
        """Points of all figures, the coarse ones first: a cut run still has every figure."""
        points = [point for figure in (_sdpa, _gemm, _near, _reads) for point in figure()]
        return sorted(points, key=lambda point: not _coarse(point))

    def seconds(self, item: Point) -> float:
        """A new head dim costs a plan of cuDNN."""
        return 1.0 if item.op == "attention" else 0.3

    def measure(self, item: Point) -> Result:
        """Times and floor; the kernels are the business of the part dispatch."""
        return measure_case(item.case, self._setting, kernels=False)

    def headline(self, item: Point, result: Result) -> str | None:
        """The sizes that the papers name."""
        case = item.case
        if isinstance(case, Attention) and case.d in (128, 129):
            return line(f"{item.figure} d {case.d}", result)
        if item.figure == "gemm-m" and isinstance(case, Gemm) and case.m in (1728, 1729):
            return line(f"gemm-m M {case.m}", result)
        return None

    def close(self) -> None:
        """Nothing is kept."""


def _sdpa() -> list[Point]:
    return [Point("sdpa-head-dim", "attention", Attention(d, dtype=DTYPE)) for d in range(64, 257)]


def _gemm() -> list[Point]:
    ms = sorted({*range(1024, 2049, 16), *range(1720, 1737), 1727, 1729})
    ns = sorted(
        {*range(1024, 2049, 16), *(n + 1 for n in range(1024, 2048, 64)), *range(1720, 1737)}
    )
    ks = range(64, 129)
    points = [Point("gemm-m", "gemm", Gemm(m, 2048, 128, DTYPE)) for m in ms]
    points += [Point("gemm-n", "gemm", Gemm(2048, n, 128, DTYPE)) for n in ns]
    points += [Point("gemm-k", "gemm", Gemm(2048, 2048, k, DTYPE)) for k in ks]
    sawtooth = range(3968, 4225, 2)
    odd = range(3969, 4225, 8)
    points += [
        Point("gemm-sawtooth", "gemm", Gemm(2048, n, 4096, DTYPE))
        for n in sorted({*sawtooth, *odd})
    ]
    return points


def _near() -> list[Point]:
    points = [Point("gemv-k", "gemm", Gemm(1, 4096, k, DTYPE)) for k in AROUND]
    points += [Point("gemv-n", "gemm", Gemm(1, n, 4096, DTYPE)) for n in AROUND]
    points += [Point("tensor-core-k", "gemm", Gemm(4096, 4096, k, DTYPE)) for k in AROUND]
    points += [Point("tensor-core-n", "gemm", Gemm(4096, n, 4096, DTYPE)) for n in AROUND]
    return points


def _reads() -> list[Point]:
    # 8 MiB of useful data over 2 GiB: warm from L2, cold from memory, and longer than a launch.
    reads = [StridedRead(262144, 16, stride, DTYPE) for stride in AROUND]
    return [Point("row-read", "stride", read) for read in reads]


def _coarse(point: Point) -> bool:
    """Every eighth size, its neighbour, and the sizes that the papers name."""
    case = point.case
    if isinstance(case, Attention):
        return case.d % 16 in (0, 1) or case.d in (107, 112)
    if isinstance(case, StridedRead):
        return case.stride % 8 in (0, 1)
    swept = {"gemm-m": case.m, "gemm-k": case.k, "gemv-k": case.k, "tensor-core-k": case.k}
    size = swept.get(point.figure, case.n)
    return size % 8 in (0, 1) or size in (1728, 1729)
