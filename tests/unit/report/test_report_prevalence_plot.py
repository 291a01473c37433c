"""The picture of irregular ranks: the same bytes for the same ranks, and what it shows."""

import sys
from pathlib import Path

import pytest

from gacfx.core.defaults import PROXIES
from gacfx.errors import CheckpointError, NoMatplotlib
from gacfx.report import drawing
from gacfx.report.prevalence_plot import prevalence_plot
from tests.golden.test_golden_prevalence import prevalence

needs_matplotlib = pytest.mark.skipif(not drawing.can_draw(), reason="no matplotlib")


@needs_matplotlib
def test_the_same_ranks_make_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.svg", "two.svg")]
    for path in paths:
        assert prevalence_plot(prevalence(*PROXIES), path) == path
    assert paths[0].read_bytes() == paths[1].read_bytes()
    other = prevalence_plot(prevalence(*PROXIES[:2]), tmp_path / "other.svg")
    assert other.read_bytes() != paths[0].read_bytes()
    png = prevalence_plot(prevalence("magnitude"), tmp_path / "one.png")
    assert png.read_bytes().startswith(b"\x89PNG")


@needs_matplotlib
def test_both_panels_say_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drawing.STYLE, "svg.fonttype", "none")
    text = prevalence_plot(prevalence(*PROXIES), tmp_path / "plot.svg").read_text()
    for said in (
        *PROXIES,
        "Ranks in proportion to importance: llama-3-8b",
        "rank modulo 16; shaded: multiples of 8",
        "no multiples of 8 and of 16 (dashed), % of ranks",
        "removed of the targeted parameters, %",
    ):
        assert said in text


@needs_matplotlib
def test_a_plot_is_not_overwritten_silently(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="exists; allow overwrite"):
        prevalence_plot(prevalence("magnitude"), path)
    assert path.read_text() == "mine"
    with pytest.raises(CheckpointError, match="written as .svg or .png"):
        prevalence_plot(prevalence("magnitude"), tmp_path / "plot.gif")


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoMatplotlib, match="drawing needs matplotlib: pip install matplotlib"):
        prevalence_plot(prevalence("magnitude"), tmp_path / "plot.svg")
