"""``gacfx bench`` on tiny checkpoints: the table, the JSON, the file, and bad input in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from gacfx.cli import main
from tests import tiny

QUICK = ("--device", "cpu", "--runs", "2", "--seconds", "0.1")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("models") / "dense", layers=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("models") / "other", layers=1, vocab_size=300)


def run(*words: object) -> int:
    try:
        return main(["bench", *(str(word) for word in words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def test_the_table_has_every_cell_of_both_models(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dense, "--against", dense, "--batch", "2,1", "--seq", "4", *QUICK) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "prefill and decode, 4 tokens, eager, fp32"
    cells = [" ".join(line.split()[:3]) for line in lines if "dense " in line and "/" not in line]
    assert cells == ["prefill 1 dense", "prefill 2 dense", "decode 1 dense", "decode 2 dense"]
    assert sum("unclear" in line for line in lines) == 4  # of two rounds nothing is sure
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert printed.err == ""


def test_json_and_file_are_the_same_and_say_the_command(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    asked = (dense, "--mode", "decode", "--batch", "1", "--out", out, "--json", *QUICK)
    assert run(*asked) == 0
    text = capsys.readouterr().out
    assert text == out.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    assert found["command"] == " ".join(["gacfx", "bench", *map(str, asked)])
    assert found["model"]["name"] == "dense" and found["dense"] is None
    assert found["setting"]["seq"] == 95
    assert [cell["mode"] for cell in found["cells"]] == ["decode"]


def test_a_file_is_not_overwritten_without_being_told(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    out.write_text("mine")
    asked = (dense, "--mode", "prefill", "--batch", "1", "--seq", "4", "--out", out, *QUICK)
    assert run(*asked) == 1
    assert capsys.readouterr().err == (
        f"gacfx bench: {out}: exists; allow overwrite (--overwrite) or name another\n"
    )
    assert out.read_text() == "mine"
    assert run(*asked, "--overwrite") == 0
    assert json.loads(out.read_text())["format"] == "gacfx-bench"
    assert [path.name for path in tmp_path.iterdir()] == ["times.json"]


def test_what_was_not_measured_ends_with_1(
    dense: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gacfx.bench.need.free_bytes", lambda _: 0)
    assert run(dense, "--batch", "1", *QUICK) == 1
    assert "prefill 1, decode 1: skipped, needs at least 0.0 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["NOWHERE"], 1, "there is no such folder"),
        (["DENSE", "--against", "NOWHERE"], 1, "there is no such folder"),
        (["DENSE", "--batch", "0"], 2, "0 is not at least 1"),
        (["DENSE", "--batch", "1,,8"], 2, "'' is not a whole number"),
        (["DENSE", "--seq", "96"], 1, "give at most 95"),
        (["DENSE", "--seconds", "nan"], 2, "finite number above 0"),
        (["DENSE", "--dtype", "fp3"], 1, "give one of fp64, fp32, fp16, bf16"),
        (["DENSE", "--device", "gpu9"], 1, "give cpu or cuda"),
        (["DENSE", "--against", "OTHER"], 1, "vocabulary 258 and 300"),
        (["DENSE", "--out", "NOWHERE/times.json"], 1, "there is no folder"),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, list) else "",
)
def test_bad_input_is_one_line(
    words: list[str],
    code: int,
    says: str,
    dense: Path,
    other: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"DENSE": dense, "OTHER": other, "NOWHERE": tmp_path / "nowhere"}
    made = [str(places.get(word, word)).replace("NOWHERE", str(tmp_path / "no")) for word in words]
    device = [] if "--device" in words else ["--device", "cpu"]
    assert run(*made, *device) == code
    printed = capsys.readouterr()
    assert printed.out == "" and says in printed.err and printed.err.count("\n") == 1
