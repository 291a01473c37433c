"""Work folders on the command line: killed runs go on, and end with the same bytes."""

import os
from pathlib import Path

import pytest
from torch import Tensor

from gacfx.cli import main
from gacfx.core.work_folder import JOURNAL, WorkFolder
from tests import tiny
from tests.trials.kills import WORDS, files, kill_runs


def compress(narrow: Path, text: Path, out: Path, *words: str) -> int:
    road = [str(narrow), "--calibration", str(text), "--out", str(out)]
    return main(["compress", *road, *WORDS, *words])


@pytest.fixture(scope="module")
def alone(narrow: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run writes that nobody disturbs; not to be changed."""
    out = tmp_path_factory.mktemp("alone") / "small"
    assert compress(narrow, text, out) == 0
    return out


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_killed_runs_end_with_the_same_bytes(
    kills: int, narrow: Path, text: Path, tmp_path: Path
) -> None:
    counts = kill_runs(narrow, text, tmp_path, kills, seed=0)
    assert counts["killed"] >= kills
    assert counts["harmed"] >= (kills > 4)


def test_the_folder_beside_the_result_is_removed(alone: Path) -> None:
    assert [path.name for path in alone.parent.iterdir()] == ["small"]


def test_a_folder_beside_the_result_that_another_command_filled_stays(
    narrow: Path, text: Path, tmp_path: Path
) -> None:
    work = str(tmp_path / "small.work")
    statistics = ["statistics", str(narrow), "--calibration", str(text), "--work", work]
    assert main([*statistics, "--prune", "--force"]) == 0
    assert compress(narrow, text, tmp_path / "small") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"small", "small.work"}


def test_a_folder_that_was_named_stays_and_serves_other_goals(
    narrow: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    assert compress(narrow, text, tmp_path / "small", "--work", str(work)) == 0
    assert (work / JOURNAL).exists()

    def never(*_: object) -> None:
        raise AssertionError("statistics were gathered again")

    monkeypatch.setattr("gacfx.calibration.by_layer.ByLayer._backward", never)
    words = ("--work", str(work), "--resume", "--ratio", "0.2")
    assert compress(narrow, text, tmp_path / "larger", *words) == 0
    alone = tmp_path / "alone"
    monkeypatch.undo()
    assert compress(narrow, text, alone, "--ratio", "0.2") == 0
    one, other = files(tmp_path / "larger"), files(alone)
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["plan/plan.json"] == other["plan/plan.json"]


def test_nothing_to_resume_is_said_before_any_work(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(narrow, text, tmp_path / "small", "--resume") == 1
    assert "small.work: no run was stopped there; leave out --resume" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_text_is_refused_and_stays(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    assert compress(narrow, text, tmp_path / "small", "--work", str(work)) == 0
    there = files(work)
    other = tiny.text_file(tmp_path / "other.txt", count=12)
    assert compress(narrow, other, tmp_path / "again", "--work", str(work)) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "is of other work: its text is" in said[0]
    assert files(work) == there


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)]
)
def test_what_ends_a_run_says_how_to_go_on(
    stop: BaseException,
    code: int,
    alone: Path,
    narrow: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    puts, put = [0], WorkFolder.put

    def until(self: WorkFolder, name: str, tensors: dict[str, Tensor]) -> None:
        puts[0] += 1
        if puts[0] == 9:
            monkeypatch.setattr("safetensors.torch.save_file", fails)
        put(self, name, tensors)

    def fails(*_: object, **__: object) -> None:
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "put", until)
        assert compress(narrow, text, tmp_path / "small") == code
    monkeypatch.undo()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    way = f"the same command with --resume goes on from {tmp_path / 'small.work'}"
    assert said[0].endswith(way)
    assert compress(narrow, text, tmp_path / "small", "--resume") == 0
    one, other = files(tmp_path / "small"), files(alone)
    assert one["model.safetensors"] == other["model.safetensors"]


@pytest.mark.parametrize("inside", ["small", "small/work"])
def test_a_folder_in_the_result_is_refused_before_any_work(
    inside: str, narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, work = tmp_path / "small", str(tmp_path / inside)
    assert compress(narrow, text, out, "--work", work) == 1
    assert "which is written as a whole" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_removed_is_said_and_the_result_is_there(
    narrow: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rmdir = Path.rmdir

    def busy(path: Path) -> None:  # as over NFS, while a file is open
        if path.name == "small.work":
            raise OSError(39, "Directory not empty")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", busy)
    assert compress(narrow, text, tmp_path / "small") == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "Directory not empty; remove it yourself" in said[0]
    assert (tmp_path / "small" / "model.safetensors").exists()


def test_the_folder_of_a_result_that_is_the_current_folder_lies_beside_it(
    narrow: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    work = tmp_path / "here.work"
    with WorkFolder(work, {}):
        assert compress(narrow, text, Path("."), "--overwrite") == 1
        assert compress(narrow, text, Path("../here"), "--overwrite") == 1
    assert [path.name for path in tmp_path.iterdir()].count("here.work") == 1


def test_a_folder_in_use_is_refused(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    with WorkFolder(work, {}):
        assert compress(narrow, text, tmp_path / "small", "--work", str(work)) == 1
    assert "another process works there" in capsys.readouterr().err
