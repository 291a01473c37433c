"""The picture of a sweep: the same bytes for the same rows, and a reason where none is drawn."""

import sys
from pathlib import Path
from typing import Any

import pytest

from gacfx.core.search import Search
from gacfx.errors import CheckpointError, GacError
from gacfx.report.frontier_plot import Mark, can_draw, frontier_plot
from gacfx.sweep import Row, sweep
from tests.unit import made_curves

needs_matplotlib = pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")


def rows() -> tuple[Row, ...]:
    return sweep(made_curves.curves(), 7, search=Search(align=1, form="pair"))


@needs_matplotlib
def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.svg", "two.svg")]
    for path in paths:
        assert frontier_plot(rows(), path, workload="prefill", marked=Mark(64, 0.225, 3.0)) == path
    assert paths[0].read_bytes() == paths[1].read_bytes()
    text = paths[0].read_text(encoding="utf-8")
    assert "<svg" in text and "<dc:date>" not in text
    other = frontier_plot(rows()[:-1], tmp_path / "other.svg")
    assert other.read_bytes() != paths[0].read_bytes()


@needs_matplotlib
def test_a_plot_is_not_overwritten_silently(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="exists; allow overwrite"):
        frontier_plot(rows(), path)
    assert path.read_text() == "mine"
    frontier_plot(rows(), path, overwrite=True)
    assert path.read_text() != "mine"


@needs_matplotlib
def test_a_persons_own_settings_do_not_change_the_picture(tmp_path: Path) -> None:
    import matplotlib

    one = frontier_plot(rows(), tmp_path / "one.svg").read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 20.0}):
        assert frontier_plot(rows(), tmp_path / "two.svg").read_bytes() == one
        assert matplotlib.rcParams["font.size"] == 20.0


@needs_matplotlib
def test_a_png_is_a_png(tmp_path: Path) -> None:
    path = frontier_plot(rows(), tmp_path / "plot.png", title="Two weights")
    assert path.read_bytes().startswith(b"\x89PNG")


@needs_matplotlib
def test_both_panels_say_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(frontier_style(), "svg.fonttype", "none")
    path = frontier_plot(rows(), tmp_path / "plot.svg", workload="decode, 4 x 512 tokens, h200")
    text = path.read_text(encoding="utf-8")
    for said in (
        "ms, rule-based forecast, decode, 4 x 512 tokens, h200",
        "rise of the loss, nats per token",
        "certified band",
        "widest certified gap",
        "dense weights' time, %",
        "parameters that the targeted weights keep",
        "removed of the targeted weights, %",
    ):
        assert said in text


@needs_matplotlib
def test_a_plan_is_pointed_out_in_both_panels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    seen: list[Any] = []

    def keep(figure: Figure, *_: object, **__: object) -> None:
        for axes in figure.axes:
            seen.append([line.get_xydata()[0].tolist() for line in axes.lines])  # type: ignore[index,union-attr]
        raise OSError("enough was seen")

    monkeypatch.setattr(Figure, "savefig", keep)
    with pytest.raises(CheckpointError, match="enough was seen"):
        frontier_plot(rows(), tmp_path / "plot.svg", marked=Mark(64, 0.225, 3000.0))
    left, right = seen
    assert (left[-1], right[-1]) == ([64, 0.225], [3.0, 0.225])
    first = rows()[0]
    assert left[0] == [first.params, first.loss_nats]
    assert right[0] == [first.forecast_us / 1e3, first.loss_nats]


@needs_matplotlib
def test_without_an_all_dense_plan_there_is_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(frontier_style(), "svg.fonttype", "none")
    path = frontier_plot(rows()[:-1], tmp_path / "plot.svg")
    assert "dense weights' time" not in path.read_text(encoding="utf-8")


def frontier_style() -> dict[Any, Any]:
    from gacfx.report.drawing import STYLE

    return STYLE


def test_without_matplotlib_the_error_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not can_draw()
    with pytest.raises(GacError, match="pip install matplotlib"):
        frontier_plot(rows(), tmp_path / "plot.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plot", "plot.pdf", "plot.csv"])
def test_only_known_formats_are_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"written as \.svg or \.png"):
        frontier_plot(rows(), tmp_path / name)


def test_one_row_is_no_curve(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="1 rows make no curve"):
        frontier_plot(rows()[:1], tmp_path / "plot.svg")


@needs_matplotlib
def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        frontier_plot(rows(), tmp_path / "no" / "plot.svg")
