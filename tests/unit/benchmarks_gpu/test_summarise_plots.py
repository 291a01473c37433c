from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.gpu.summarise import drawable
from benchmarks.gpu.summary.plots import spread, write
from benchmarks.gpu.summary.records import load
from gacfx.report.drawing import can_draw
from tests.unit.benchmarks_gpu import synthetic

needs_matplotlib = pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")
ALL = [
    *("prefill-lengths", "prefill", "decode", "sdpa-head-dim", "gemm-sweeps", "gemm-sawtooth"),
    *("gemv", "tensor-core", "row-read"),
]


def names(folder: Path, *found: synthetic.Record) -> list[str]:
    return [plot.name for plot in drawable(load(synthetic.write(folder / "here", found)))]


def test_a_whole_run_has_every_plot(tmp_path: Path) -> None:
    assert names(tmp_path, *synthetic.machine()) == ALL


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    one = synthetic.model_item("dense", 1000.0)
    assert names(tmp_path / "a", synthetic.run(), one) == ["prefill"]
    assert names(tmp_path / "b", synthetic.run(), *synthetic.dispatch()) == []
    sweeps = [r for r in synthetic.figures() if r["item"]["figure"] in ("gemm-k", "gemv-n")]
    assert names(tmp_path / "c", synthetic.run(), *sweeps) == ["gemm-sweeps", "gemv"]


@needs_matplotlib
def test_a_single_point_can_be_drawn(tmp_path: Path) -> None:
    first = {r["item"]["figure"]: r for r in reversed(synthetic.figures())}
    lone = synthetic.model_item("dense", 1000.0)
    found = [synthetic.run(), lone, *first.values()]
    plots = drawable(load(synthetic.write(tmp_path / "here", found)))
    write(plots, tmp_path)
    assert len(list(tmp_path.glob("*.svg"))) == len(plots) == 7


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.52, 0.5], [0.56, 0.46]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.0, 0.5, 0.51, 0.9], [0.0, 0.455, 0.555, 0.9]),
    ],
)
def test_labels_are_spread_around_their_places(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, 0.1) == pytest.approx(expected)


def test_labels_never_overlap_and_keep_their_order() -> None:
    wanted = [0.9, 0.1, 0.11, 0.19, 0.5, 0.52, 0.31]
    places = spread(wanted, 0.08)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    steps = [places[b] - places[a] for a, b in pairwise(order)]
    assert min(steps) >= 0.08 - 1e-12
