"""The rehearsal of a model of 8 billion parameters, in tiny sizes on the CPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import compress_8b
from benchmarks.gpu.llama.random_checkpoint import SHAPES

ROOT = Path(__file__).parents[3]
ABSENT = ("pulp", "pydantic", "rich", "matplotlib")
"""Packages that a bare GPU machine does not have."""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    block = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    (folder / "sitecustomize.py").write_text(block)
    script = ROOT / "benchmarks/gpu/compress_8b.py"
    return subprocess.run(
        [sys.executable, str(script), "--dry-run", "--out", "run.json", "--folder", ".", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder, what was measured) of a whole dry run, started as a file from another folder."""
    folder = tmp_path_factory.mktemp("gpu")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "run.json").read_text())


def test_every_stage_is_measured(rehearsal: tuple[Path, dict[str, Any]]) -> None:
    found = rehearsal[1]
    names = ["write", "import", "load", "digest", "calibrate", "curves", "plan", "evaluate", "save"]
    assert [row["stage"] for row in found["stages"]] == names
    assert found["finished"] and all(row["done"] for row in found["stages"])
    parts = {row["stage"]: row.get("parts", {}) for row in found["stages"]}
    assert parts["calibrate"].keys() == {"capture", "forward", "head", "backward"}
    assert parts["curves"]["decompose fit"]["sets"] == 21
    assert {"factors", "evaluate", "decompose full"} <= parts["plan"].keys()


def test_the_file_says_what_it_ran_on(rehearsal: tuple[Path, dict[str, Any]]) -> None:
    found = rehearsal[1]
    assert found["dry"] is True and found["machine"]["packages"].keys() >= {"torch", "numpy"}
    assert found["parameters"] == found["targeted"] + 2 * 258 * 64 + 7 * 64
    assert 0.8 < found["work_folder_gib"] / found["predicted_work_folder_gib"] < 1.25


def test_nothing_is_left_behind(rehearsal: tuple[Path, dict[str, Any]]) -> None:
    names = {path.name for path in rehearsal[0].iterdir()}
    assert names - {"__pycache__"} == {"run.json", "sitecustomize.py"}


def test_when_the_time_is_over_it_has_what_was_measured(tmp_path: Path) -> None:
    done = run(tmp_path, "--limit-s", "0.5")
    assert done.returncode == 0 and "the time is over" in done.stdout, done.stderr
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["finished"] is False
    assert all(row["done"] for row in found["stages"][:-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit-s", "0"], "expected seconds above 0"),
        (["--limit-s", "nan"], "expected seconds above 0"),
        (["--layers", "1"], "at least two layers"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compress_8b.main(["--dry-run", "--out", "run.json", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_no_more_layers_than_there_is_disk_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {**SHAPES["llama-3-8b"]}

    class Usage:
        free = 40e9

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    found = compress_8b.layers_for(shape, 65_536, tmp_path, tmp_path)
    assert 10 < found < 25
    Usage.free = 1e9
    with pytest.raises(OSError, match="no room"):
        compress_8b.layers_for(shape, 65_536, tmp_path, tmp_path)
