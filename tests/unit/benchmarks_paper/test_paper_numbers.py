"""Numbers on a tiny model: rows one by one, healing from what was kept, and the picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.tables import NONE
from benchmarks.paper import numbers, table3, table5, views
from benchmarks.paper.numbers import Numbers
from benchmarks.paper.numbers_plot import plot
from benchmarks.paper.recipes import Recipe
from benchmarks.paper.rows import Heals
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.errors import CheckpointError, NoLmEval
from tests.unit.benchmarks_paper import subjects

NAMES, RATIOS = ("svd-llm", "pairs", "corrected", "healed"), ("0.4",)

START = Recipe("corrected", "something to heal", "own", "svd-llm")
"""Corrections are tried in the tests of table 5, and leave little to heal here."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    root = tmp_path_factory.mktemp("numbers")
    return Numbers(
        subjects.subject(root, "numbers"), Heals(tokens=5_000, minutes=5.0, step_tokens=96)
    )


@pytest.fixture(scope="module")
def found(known: Numbers) -> dict[str, Any]:
    patch = pytest.MonkeyPatch()
    patch.setitem(numbers.RECIPES, "corrected", START)
    try:
        return {row["name"]: row for row in known.run(NAMES, RATIOS)}
    finally:
        patch.undo()


def test_rows_are_measured_against_the_dense_model(found: dict[str, Any], known: Numbers) -> None:
    assert [*found] == [*NAMES]
    subject = known.subject
    dense = evaluate(subject.model, subject.judge).nats_per_token
    assert known.dense_nats == pytest.approx(dense, rel=1e-9)
    with subject.study("gfwsvd") as study:
        made = study.with_method("svd-llm").upstream("0.4", profile=api.load_profile("h200"))
        nats = study.measure(made, subject.judge)
    assert found["svd-llm"]["excess_nats"] == pytest.approx(nats - dense, abs=2e-6)
    assert found["svd-llm"]["promised_nats"] == pytest.approx(made.plan.loss_nats, abs=1e-6)
    assert found["pairs"]["aligned"] == 1 and found["svd-llm"]["aligned"] < 1
    for name, row in found.items():
        assert 0.5 < row["kept_share"] <= 0.6
        assert (row["promised_nats"] is None) == (name == "healed")
    assert found["pairs"]["excess_nats"] < found["svd-llm"]["excess_nats"]
    assert found["healed"]["excess_nats"] < found["corrected"]["excess_nats"]


def test_what_a_healing_begins_with_is_removed_behind_it(
    found: dict[str, Any], known: Numbers
) -> None:
    assert found["healed"]["tokens"] > 0
    assert not known.folder("0.4").exists() and not known.healing("0.4").exists()


def test_known_rows_are_not_made_again(
    found: dict[str, Any], known: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(api, "calibrate", never)
    monkeypatch.setattr(numbers, "heal", never)
    again = known.run(["pairs", "svd-llm"], RATIOS)
    assert again == [found["svd-llm"], found["pairs"]]  # in the order of the table


def test_a_plan_is_made_again_for_a_healing_alone(
    found: dict[str, Any], known: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(numbers.RECIPES, "corrected", START)
    known.file(numbers.RECIPES["healed"], "0.4").unlink()
    healed = {"failed": "", "excess_nats": 0.0, "seconds": 0.0}
    begins: list[bool] = []

    def heal(self: Numbers, ratio: str) -> dict[str, Any]:
        begins.append(self.checkpoint(ratio) is not None)
        return healed

    monkeypatch.setattr(Numbers, "healed", heal)
    start, row = known.run(["healed"], RATIOS)
    assert start["name"] == "corrected"
    assert begins == [True] and row["excess_nats"] == 0 and "seconds" in row


def rows() -> list[dict[str, Any]]:
    made = [("a", "0.1", 0.01, 0.02), ("a", "0.2", 0.05, 0.04), ("b", "0.1", -0.001, None)]
    return [
        {"row": row, "ratio": ratio, "excess_nats": nats, "promised_nats": said, "failed": ""}
        for row, ratio, nats, said in made
    ]


def test_the_table_shows_promises_behind_the_losses() -> None:
    failed = {"row": "b", "ratio": "0.2", "failed": "too much"}
    shown = views.numbers([*rows(), failed])
    assert shown.header == ("row", ">0.1", ">0.2")
    assert shown.rows == (("a", "0.010 (0.020)", "0.050 (0.040)"), ("b", "-0.001", NONE))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_picture_is_drawn(tmp_path: Path, suffix: str) -> None:
    failed = {"row": "b", "ratio": "0.2", "failed": "too much"}
    path = plot([*rows(), failed], tmp_path / f"numbers{suffix}", "tiny")
    start = path.read_bytes()[:5]
    assert start == (b"<?xml" if suffix == ".svg" else b"\x89PNG\r")
    with pytest.raises(CheckpointError, match=r"svg or \.png"):
        plot(rows(), tmp_path / "numbers.gif", "tiny")


@pytest.mark.parametrize("main", [table3.main, table5.main])
def test_what_is_missing_is_said_before_any_work(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", str(tmp_path), "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit):
        main(words[:2])

    def absent() -> None:
        raise NoLmEval("zero-shot tasks need lm-eval")

    monkeypatch.setattr(table3, "check_installed", absent)
    monkeypatch.setattr(table5, "check_installed", absent)
    with pytest.raises(NoLmEval):
        main(words)
    words += ["--cells", "quality", "--data", str(tmp_path / "nowhere")]
    with pytest.raises(CheckpointError, match="no such folder; name that of the texts with --data"):
        main(words)
    assert not (tmp_path / "work").exists()


def test_the_command_writes_results_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], known: Numbers
) -> None:
    monkeypatch.setattr(numbers, "read_subject", lambda *_: known.subject)
    out = tmp_path / "numbers.json"
    words = ["--model", "M", "--work", "W", "--rows", "pairs", "--ratios", "0.4"]
    assert numbers.main([*words, "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["rows"] == [found["pairs"]]
    assert (tmp_path / written["picture"]).exists()
    assert written["dense_nats_per_token"] == known.dense_nats
    assert written["evaluation"]["window"] == written["evaluation"]["stride"] == 96
