"""Work folders that cannot be used, and disks that fill up: one line, and how to go on."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx import api
from gacfx.cli import main
from gacfx.core.work_folder import WorkFolder
from gacfx.work import open_work
from tests import tiny
from tests.trials.kills import WORDS, files

SIZES = {"hidden": 32, "width": 48}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("models") / "dense", **SIZES)


def line(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The only line on the error stream of a command that fails."""
    assert main([str(word) for word in words]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    return str(said)


# -- before any work -----------------------------------------------------------------------------


def command(name: str, text: Path, out: Path) -> list[object]:
    """Of a model that is not there: whatever is said first was asked before it was read."""
    made = ["--out", out] if name == "compress" else []
    return [name, "/no/such/model", "--calibration", text, *made, "--work"]


COMMANDS = pytest.mark.parametrize("name", ["compress", "statistics", "plan"])


@COMMANDS
@pytest.mark.parametrize(
    ("work", "says"),
    [
        ("file", "file: is a file; name a folder"),
        ("file/below", "file is no folder"),
        ("full", "is not a work folder"),
        ("/proc/work", "/proc/work: cannot be written: No such file or directory"),
    ],
)
def test_a_folder_that_cannot_be_one_is_refused_before_the_model_is_read(
    name: str, work: str, says: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    before = files(tmp_path)
    said = line(capsys, *command(name, text, tmp_path / "out"), tmp_path / work)
    assert says in said
    assert files(tmp_path) == before and not (tmp_path / "out").exists()


@COMMANDS
def test_a_read_only_folder_is_refused_before_the_model_is_read(
    name: str,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    WorkFolder(tmp_path / "work", {}).close()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    words = command(name, text, tmp_path / "out")
    monkeypatch.setattr(Path, "touch", read_only)
    if name == "compress":  # the folder to write can be
        monkeypatch.setattr("gacfx.checkpoint.save.check_target", lambda *_, **__: None)
    assert "work: cannot be written: Read-only file system" in line(
        capsys, *words, tmp_path / "work"
    )


# -- a folder of other work ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_of", "words", "says"),
    [
        ({"seed": 1}, (), "its seed is 1, and 0 is asked for"),
        ({}, ("--seed", "2"), "its seed is 0, and 2 is asked for"),
        ({"skip": ("*.q_proj",)}, (), r"its skip is ['*.q_proj'], and [] is asked for"),
        ({}, ("--skip", "*.up_proj"), r"its skip is [], and ['*.up_proj'] is asked for"),
        ({}, ("--prune",), "its pruning is False, and True is asked for"),
        ({}, ("--calibration-tokens", "300"), "its text is '"),
        ({}, ("--dtype", "bf16"), "its model is '"),
        ({"versions": "torch"}, (), "its torch is '0.0', and "),
        ({"versions": "gacfx"}, (), "its gacfx is '0.0', and "),
        ({"versions": "transformers"}, (), "its transformers is '0.0', and "),
        ({"weights": 0.5}, (), "its model is '"),
    ],
)
def test_what_differs_is_named_and_the_folder_stays(
    made_of: dict[str, Any],
    words: tuple[str, ...],
    says: str,
    dense: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, asked = tmp_path / "work", dict(made_of)
    model, tokenizer = api.load(dense)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += asked.pop("weights", 0)
    corpus = api.read_calibration(text, model, tokenizer)
    with monkeypatch.context() as older:
        old = asked.pop("versions", "")
        if old == "transformers":
            older.setattr("gacfx.work.version", lambda _: "0.0")
        elif old:
            older.setattr(f"{old}.__version__", "0.0")
        open_work(work, model, corpus, **asked).close()
    before = files(work)
    capsys.readouterr()  # transformers has said how it loads
    said = line(capsys, "statistics", dense, "--calibration", text, "--work", work, *words)
    assert f"work: is of other work: {says}" in said and said.endswith("; name another folder")
    assert files(work) == before


# -- disks that fill up --------------------------------------------------------------------------


def never(*_: object) -> None:
    raise AssertionError("it was measured again")


def test_a_disk_that_is_full_when_the_result_is_written_costs_no_work(
    dense: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save: Callable[..., Path] = api.save

    def on_a_full_disk(*given: Any, **named: Any) -> Path:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        try:
            return save(*given, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    out, work = tmp_path / "small", tmp_path / "small.work"
    words = ("compress", dense, "--calibration", text, "--out", out, *WORDS)
    with monkeypatch.context() as full:
        full.setattr(api, "save", on_a_full_disk)
        said = line(capsys, *words)
    assert f"{out}: cannot be written: " in said
    assert said.endswith(f"; the same command with --resume goes on from {work}")
    assert [path.name for path in tmp_path.iterdir()] == ["small.work"]
    monkeypatch.setattr("gacfx.calibration.by_layer.ByLayer._forward", never)
    assert main([*map(str, words), "--resume"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_statistics_that_a_full_disk_stopped_go_on_with_the_same_command(
    dense: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, put, done = tmp_path / "work", WorkFolder.put, list[str]()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def until(self: WorkFolder, name: str, tensors: dict[str, Tensor]) -> None:
        with monkeypatch.context() as disk:
            if len(done) == 6:
                disk.setattr("safetensors.torch.save_file", full)
            counted(self, name, tensors)

    def counted(self: WorkFolder, name: str, tensors: dict[str, Tensor]) -> None:
        put(self, name, tensors)
        done.append(name)

    words = ("statistics", dense, "--calibration", text, "--work", work)
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "put", until)
        said = line(capsys, *words)
    assert said == (
        f"gacfx statistics: {work}: cannot be written: [Errno 28] No space left on device; "
        f"the same command goes on from {work}"
    )
    assert "hidden.1.0" in done
    done.clear()
    monkeypatch.setattr(WorkFolder, "put", counted)
    assert main([*map(str, words)]) == 0
    # The step that failed is done again, with what it had put already.
    assert "hidden.2.0" in done and not {"loss.sample", "hidden.1.0", "hidden.1.1"} & {*done}
