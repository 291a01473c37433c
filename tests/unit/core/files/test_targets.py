"""Targets: refused in one line before any work; failing writers said in one line."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from gacfx.core.curve_file import save_curves
from gacfx.core.decision import of_rank
from gacfx.core.files.targets import check_file, check_folder, check_space, writing
from gacfx.core.materialise import Factors
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.plan_folder import save_factors, save_plan
from gacfx.core.provenance import Provenance
from gacfx.errors import CheckpointError
from tests.unit import made_curves


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(check: Callable[[Path], None], path: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        check(Path(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def folder(path: Path) -> None:
    check_folder(path, overwrite=False)


def file(path: Path) -> None:
    check_file(path, overwrite=False)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder with a file in it, and links."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "there").symlink_to(tmp_path / "full")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("full", "exists and is not empty; allow overwrite"),
        ("there", "full: exists and is not empty"),
        ("full/file", "is a file; name a folder"),
        ("full/file/below", "file is no folder"),
        ("nowhere", "is a link that leads nowhere"),
        ("circle", "is a link that leads nowhere"),
        ("nowhere/below", "nowhere: is a link that leads nowhere"),
        ("pipe", "is a file; name a folder"),
        ("x" * 300, "File name too long"),
        ("x" * 230, "File name too long"),
        ("/proc/new", "cannot be written: No such file"),
        ("/sys/new", "cannot be written: "),
        ("/", "exists and is not empty"),
    ],
)
def test_folders_that_cannot_be_written(full: Path, name: str, says: str) -> None:
    before = names(full)
    assert says in refused(folder, full / name)
    assert names(full) == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("full", "is a folder; name a file"),
        ("full/file", "exists; allow overwrite (--overwrite) or name another"),
        ("full/file/below", "file is no folder"),
        ("nowhere", "is a link that leads nowhere"),
        ("pipe", "is a pipe or a device"),
        ("/dev/null", "is a pipe or a device"),
        ("x" * 230, "File name too long"),
        ("/proc/new", "cannot be written: No such file"),
    ],
)
def test_files_that_cannot_be_written(full: Path, name: str, says: str) -> None:
    assert says in refused(file, full / name)


def test_what_may_be_written(full: Path) -> None:
    (full / "empty").mkdir()
    for name in ("new", "deep/er/new", "empty", "x" * 200):
        folder(full / name)
        file(full / name / "file")
    check_folder(full / "there", overwrite=True, holds=("file",), what="a folder of mine")
    check_folder(full / "there", overwrite=True, holds=("no", "file"), what="a folder of mine")
    check_file(full / "full" / "file", overwrite=True)
    assert names(full) == ["circle", "empty", "full", "nowhere", "pipe", "there"]


def test_another_folder_than_asked_for_is_not_overwritten(full: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a plan folder \(it has no plan.json\)"):
        check_folder(full / "full", overwrite=True, holds=("plan.json",), what="a plan folder")


def test_a_read_only_file_system_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", read_only)
    for check in (folder, file):
        assert refused(check, tmp_path / "x").endswith("cannot be written: Read-only file system")


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_space_is_said_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 0, 3 * 10**9))
    check_space(tmp_path / "new" / "folder", 3 * 10**9)
    with pytest.raises(CheckpointError, match=r"3,000.0 MB are free .* about 16,060.5 MB"):
        check_space(tmp_path / "new" / "folder", 16_060_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, 0))  # it does not tell
    check_space(tmp_path, 10**12)


# -- a disk that fills up ------------------------------------------------------------------------


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """No file may grow larger: the kernel refuses to write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def some_factors() -> dict[str, Factors]:
    return {"layer": Factors.pair(torch.ones(2, 500), torch.ones(400, 2))}


def some_plan(**more: Any) -> Plan:
    return Plan(
        choices=(Choice.single("layer", 400, 500, of_rank(2), None, 0.0),),
        budget=Budget("0.5", "targeted", 200_000, 200_000, 100_000),
        proof=None,
        provenance=Provenance("svd", "fisher", "h200", 1, "fp32"),
        **more,
    )


def write_factors(path: Path, overwrite: bool) -> None:
    save_factors(path, some_factors(), overwrite=overwrite)


def write_curves(path: Path, overwrite: bool) -> None:
    save_curves(path, made_curves.curves(), overwrite=overwrite)


def write_a_plan(path: Path, overwrite: bool) -> None:
    save_plan(path, some_plan(), some_factors(), overwrite=overwrite)


WRITERS = [write_factors, write_curves, write_a_plan]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path, bool], None]
) -> None:
    with (
        small_files(100),
        pytest.raises(CheckpointError, match="target: cannot be written: .*too large") as caught,
    ):
        write(tmp_path / "deep" / "er" / "target", False)
    assert "\n" not in str(caught.value) and ".partial" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_full_after_the_factors_leaves_the_old_plan(tmp_path: Path) -> None:
    write_a_plan(tmp_path, False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    size = len(before["factors.safetensors"])
    longer = some_plan(refusals={f"layer.{number}": "x" * 1000 for number in range(size // 1000)})
    with small_files(size + 50), pytest.raises(CheckpointError, match="too large"):
        save_plan(tmp_path, longer, some_factors(), overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_is_overwritten_silently(
    tmp_path: Path, write: Callable[[Path, bool], None]
) -> None:
    write(tmp_path / "target", False)
    with pytest.raises(CheckpointError, match="exists; allow overwrite"):
        write(tmp_path / "target", False)
    write(tmp_path / "target", True)
    assert names(tmp_path) == ["target"]


def panic() -> BaseException:
    """What a panic in Rust arrives as: no Exception, and its class has no public name."""
    made = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    return made("called `Result::unwrap()`\n on an `Err` value: StorageFull")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (SafetensorError("Error while serializing: I/O error: No space"), "I/O error: No space"),
        (panic(), "StorageFull"),
    ],
    ids=lambda found: type(found).__name__,
)
def test_what_writers_raise_is_one_line(raised: BaseException, says: str) -> None:
    with pytest.raises(CheckpointError) as caught, writing(Path("weights")):
        raise raised
    assert str(caught.value).startswith("weights: cannot be written: ")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    for other in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(other), writing(Path("weights")):
            raise other


def test_safetensors_raises_what_is_expected_of_it(tmp_path: Path) -> None:
    with small_files(100), pytest.raises(SafetensorError, match="I/O error: File too large"):
        save_file({"a": np.zeros(1000)}, tmp_path / "f")
