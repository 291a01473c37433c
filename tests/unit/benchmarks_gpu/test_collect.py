import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.gpu import collect
from gacfx.hardware.measure.device import default_device, name_of
from gacfx.hardware.measure.journal import FILE, Journal, Record, read

ROOT = Path(__file__).parents[3]
ABSENT = ("pulp", "pydantic", "rich", "matplotlib")
"""Packages that a bare GPU machine does not have."""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, printed text) of a whole dry run, started as a file from another folder."""
    folder = tmp_path_factory.mktemp("gpu")
    block = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    (folder / "sitecustomize.py").write_text(block)
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu/collect.py"), "--dry", "--out", "records"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "records", done.stdout


def items(folder: Path) -> list[Record]:
    return [record for record in read(folder) if record["kind"] == "item"]


def test_every_part_is_rehearsed_without_a_failure(rehearsal: tuple[Path, str]) -> None:
    found = items(rehearsal[0])
    assert {record["part"] for record in found} == {make.name for make in collect.PARTS}
    assert [record for record in found if "error" in record] == []


def test_the_run_says_what_it_ran_on(rehearsal: tuple[Path, str]) -> None:
    first, *_, last = read(rehearsal[0])
    assert (
        first["kind"] == "run"
        and first["dry"] is True
        and first["machine"]["name"] == name_of(default_device())
    )
    assert {"torch", "transformers", "numpy"} <= first["machine"]["packages"].keys()
    assert last["kind"] == "end"
    assert all(part["left"] == part["failed"] == 0 for part in last["parts"].values())


def test_a_table_is_printed_at_the_end(rehearsal: tuple[Path, str]) -> None:
    lines = rehearsal[1].splitlines()
    table = [line.replace("|", "").split() for line in lines[-3 - len(collect.PARTS) : -1]]
    assert table[0] == ["part", "measured", "failed", "left", "seconds"]
    assert [cells[0] for cells in table[2:]] == [make.name for make in collect.PARTS]
    assert lines[-1].endswith(FILE)


def test_resuming_a_whole_run_measures_only_the_ceilings(
    rehearsal: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Counter(record["part"] for record in items(rehearsal[0]))
    assert collect.main(["--dry", "--out", str(rehearsal[0]), "--resume"]) == 0
    after = Counter(record["part"] for record in items(rehearsal[0]))
    assert after - before == Counter({"ceilings": before["ceilings"]})


def run(tmp_path: Path, *arguments: str) -> int:
    return collect.main(["--dry", "--out", str(tmp_path / "out"), *arguments])


def test_only_one_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--only", "decompose") == 0
    assert {r["part"] for r in items(tmp_path / "out")} == {"ceilings", "decompose"}


def test_what_does_not_fit_into_the_time_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--only", "decompose", "--budget-minutes", "0.6") == 0
    *_, end = read(tmp_path / "out")
    assert end["parts"]["decompose"]["left"] > 0  # the largest are guessed to take minutes
    assert end["parts"]["decompose"]["done"] > 0


def test_a_folder_with_records_needs_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--only", "decompose", "--budget-minutes", "0.01") == 0
    assert run(tmp_path) == 1
    assert "--resume" in capsys.readouterr().err


def test_records_of_another_machine_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "out", resume=False)
    journal.write("run", dry=False, machine={"name": "NVIDIA H200"})
    journal.close()
    assert run(tmp_path, "--resume") == 1
    assert "NVIDIA H200" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget-minutes", "0"], "expected minutes above 0"),
        (["--budget-minutes", "nan"], "expected minutes above 0"),
        (["--only", "everything"], "invalid choice"),
        (["--extra", "absent.json"], "absent.json"),
    ],
)
def test_wrong_use_is_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_records_are_plain_json(rehearsal: tuple[Path, str]) -> None:
    text = (rehearsal[0] / FILE).read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
