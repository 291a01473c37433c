"""replacing and replacing_folder: the old one or the new one, and no litter."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_IMODE
from threading import Barrier

import numpy as np
import pytest
from safetensors.numpy import save_file

from gacfx.core.files.atomic import replacing, replacing_folder
from gacfx.core.files.exchange import exchange
from gacfx.core.files.leftovers import OLD, PARTIAL, LeftBehind, beside, tidy

ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupt_after(write: Callable[..., object], *arguments: str) -> None:
    write(*arguments)
    raise KeyboardInterrupt


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["f"]


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        interrupt_after(partial.write_text, "ne")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with replacing_folder(path) as partial:
        (partial / "new").touch()
        assert not path.exists()
    assert names(path) == ["new"]
    with replacing_folder(path) as partial:
        (partial / "newer").touch()
        assert names(path) == ["new"]
    assert names(path) == ["newer"]
    assert names(tmp_path) == ["d"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as partial:
        interrupt_after((partial / "new").touch)
    assert names(path) == ["old"]
    assert names(tmp_path) == ["d"]


def test_a_failed_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def fails_on_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_on_the_new_one)
    with pytest.raises(PermissionError), replacing_folder(path) as partial:
        (partial / "new").touch()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["d"]


def test_the_folder_can_be_read_by_others(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    with replacing_folder(tmp_path / "d"):
        pass
    assert (tmp_path / "d").stat().st_mode == ordinary.stat().st_mode


@pytest.fixture(params=[(0o022, 0o644), (0o077, 0o600)], ids=["umask-022", "umask-077"])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """What ``open`` gives a new file under the umask that is set meanwhile."""
    umask, expected = request.param
    before = os.umask(umask)
    yield expected
    os.umask(before)


def mode_of(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


def private(path: Path) -> None:
    """Written as safetensors does it: under a private name of its own, then renamed."""
    save_file({"a": np.zeros(2)}, path)
    assert mode_of(path) == 0o600


def test_a_new_file_has_the_mode_that_open_gives(tmp_path: Path, mode: int) -> None:
    with replacing(tmp_path / "f") as partial:
        private(partial)
    assert mode_of(tmp_path / "f") == mode
    assert names(tmp_path) == ["f"]


def test_files_of_a_new_folder_have_the_mode_that_open_gives(tmp_path: Path, mode: int) -> None:
    with replacing_folder(tmp_path / "d") as partial:
        private(partial / "model.safetensors")
        (partial / "plan").mkdir()
        private(partial / "plan" / "factors.safetensors")
    assert mode_of(tmp_path / "d" / "model.safetensors") == mode
    assert mode_of(tmp_path / "d" / "plan" / "factors.safetensors") == mode
    assert names(tmp_path) == ["d"]


def test_a_file_that_was_made_private_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path) as partial:
        partial.write_text("new")
    assert (path.read_text(), mode_of(path)) == ("new", 0o640)


def test_a_body_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert names(tmp_path) == ["f"] and path.read_text() == "old"


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, kind in (("none/table.csv", FileNotFoundError), ("folder", IsADirectoryError)):
        with pytest.raises(kind) as caught, replacing(tmp_path / path) as partial:
            partial.write_text("x")
        assert str(caught.value).endswith(f": '{tmp_path / path}'")


# -- killed writers ------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from gacfx.core.files import atomic

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def after(*names):
    assert swap(*names)
    die()

def between(self, target):
    if self.name.endswith(".partial") and not Path(target).exists():
        die()
    return rename(self, target)

swap, rename = atomic.exchange, Path.rename
if sys.argv[2] == "between":
    atomic.exchange = lambda *_: False
    Path.rename = between
else:
    atomic.exchange = {"before": die, "after": after}[sys.argv[2]]
with atomic.replacing_folder(Path(sys.argv[1])) as partial:
    (partial / "new").touch()
"""


def killed(path: Path, moment: str) -> None:
    """A folder ``old`` at ``path``, and a writer of ``new`` that is killed at that moment."""
    path.mkdir()
    (path / "old").touch()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("moment", "holds"), [("before", "old"), ("after", "new")])
def test_a_writer_killed_while_it_overwrites_leaves_a_whole_folder(
    tmp_path: Path, moment: str, holds: str
) -> None:
    needs_exchange(tmp_path)
    path = tmp_path / "d"
    killed(path, moment)
    assert names(path) == [holds]
    with pytest.warns(LeftBehind, match=r"d: removed what a killed writer .*\.partial$"):
        tidy(path)
    assert names(tmp_path) == ["d"] and names(path) == [holds]


def test_a_writer_killed_between_two_renames_leaves_a_folder_that_is_put_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "d"
    killed(path, "between")
    assert not path.exists()
    with (
        pytest.warns(LeftBehind, match="the earlier folder is back"),
        pytest.warns(LeftBehind, match=r"removed .*\.partial$"),
    ):
        tidy(path)
    assert names(tmp_path) == ["d"] and names(path) == ["old"]


def test_the_next_write_finds_what_a_killed_writer_left(tmp_path: Path) -> None:
    for name in ("d", "f"):
        left(tmp_path / name, DEAD).touch()
    with pytest.warns(LeftBehind, match="d: removed"), replacing_folder(tmp_path / "d"):
        pass
    with pytest.warns(LeftBehind, match="f: removed"), replacing(tmp_path / "f") as partial:
        partial.touch()
    assert names(tmp_path) == ["d", "f"]


def test_names_of_living_writers_other_machines_and_other_targets_stay(tmp_path: Path) -> None:
    path = tmp_path / "d"
    alive, dead = left(path, os.getpid()), left(path, DEAD)
    machine = dead.name.split(".")[2].split("-")[0]
    others = [
        dead.with_name(dead.name.replace(machine, "0" * 6)),
        left(tmp_path / "d2", DEAD),
        tmp_path / ".d.notes.old",
    ]
    for file in (alive, *others):
        file.touch()
    before = names(tmp_path)
    tidy(path)
    assert names(tmp_path) == before


def test_of_two_folders_that_were_moved_aside_the_newer_one_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for age_s, name in ((300, "older"), (200, "newer"), (400, "oldest")):
        old = left(path, DEAD, OLD)
        old.mkdir()
        (old / name).touch()
        os.utime(old, (10_000 - age_s, 10_000 - age_s))
    with (
        pytest.warns(LeftBehind, match="the earlier folder is back"),
        pytest.warns(LeftBehind, match=r"removed .*\.old, .*\.old$"),
    ):
        tidy(path)
    assert names(tmp_path) == ["d"] and names(path) == ["newer"]


def test_a_link_that_was_left_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kept").touch()
    left(tmp_path / "d", DEAD).symlink_to(tmp_path / "real")
    with pytest.warns(LeftBehind, match="d: removed"):
        tidy(tmp_path / "d")
    assert names(tmp_path) == ["real"] and names(tmp_path / "real") == ["kept"]


@pytest.mark.parametrize("error", [PermissionError, OverflowError])
def test_a_writer_that_may_not_be_asked_is_taken_for_living(
    tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, signal: int) -> None:
        assert signal == 0
        raise error

    monkeypatch.setattr(os, "kill", kill)
    left(tmp_path / "d", DEAD).touch()
    before = names(tmp_path)
    tidy(tmp_path / "d")
    assert names(tmp_path) == before


DEAD = 999_999_999
"""No process has this number: the kernel's largest is below 2**22."""


def left(path: Path, pid: int, what: str = PARTIAL) -> Path:
    own = beside(path, what)
    return own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{pid}-"))


def needs_exchange(folder: Path) -> None:
    one, two = folder / "one", folder / "two"
    one.write_text("1")
    two.write_text("2")
    swapped = exchange(one, two)
    assert (one.read_text(), two.read_text()) == (("2", "1") if swapped else ("1", "2"))
    one.unlink()
    two.unlink()
    if not swapped:
        pytest.skip("this system cannot swap two names in one step")


def test_swapping_with_nothing_is_an_error(tmp_path: Path) -> None:
    needs_exchange(tmp_path)
    (tmp_path / "one").touch()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "two")
    assert names(tmp_path) == ["one"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOTSUP])
def test_a_system_that_cannot_swap_says_so_and_the_folder_is_replaced(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr("gacfx.core.files.exchange._renameat2", lambda: cannot)
    assert exchange(tmp_path / "one", tmp_path / "two") is False
    path = tmp_path / "d"
    for name in ("old", "new"):
        with replacing_folder(path) as partial:
            (partial / name).touch()
    assert names(tmp_path) == ["d"] and names(path) == ["new"]


def test_a_folder_that_may_not_be_written_is_no_system_that_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        ctypes.set_errno(errno.EACCES)
        return -1

    monkeypatch.setattr("gacfx.core.files.exchange._renameat2", lambda: refused)
    with pytest.raises(PermissionError):
        exchange(tmp_path / "one", tmp_path / "two")


# -- two writers ---------------------------------------------------------------------------------


def write_folder(path: Path, text: str, overwrite: bool, together: Barrier) -> None:
    with replacing_folder(path, overwrite=overwrite) as partial:
        (partial / "a").write_text(text)
        together.wait(10)
        (partial / "b").write_text(text)


def write_file(path: Path, text: str, overwrite: bool, together: Barrier) -> None:
    with replacing(path, overwrite=overwrite) as partial:
        together.wait(10)
        partial.write_text(text)


def written_by(path: Path) -> set[str]:
    files = [path] if path.is_file() else [path / name for name in names(path)]
    assert len(files) == 1 + path.is_dir()
    return {file.read_text() for file in files}


def two_writers(
    path: Path, write: Callable[[Path, str, bool, Barrier], None], overwrite: bool
) -> list[BaseException | None]:
    together = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(write, path, text, overwrite, together) for text in ("one", "two")]
        return [run.exception() for run in runs]


def test_a_folder_that_another_writer_moves_aside_at_once_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gacfx.core.files.atomic.exchange", lambda *_: False)
    path, real = tmp_path / "x", Path.rename
    path.mkdir()
    (path / "old").touch()

    def followed(self: Path, target: Path) -> Path:
        new = (self / "new").exists()
        found = real(self, target)
        if new and target == path:
            real(path, tmp_path / "theirs")
        return found

    monkeypatch.setattr(Path, "rename", followed)
    with replacing_folder(path) as partial:
        (partial / "new").touch()
    assert names(tmp_path) == ["theirs"] and names(tmp_path / "theirs") == ["new"]


@pytest.mark.parametrize("write", [write_folder, write_file])
def test_of_two_writers_the_slower_one_is_refused(
    tmp_path: Path, write: Callable[[Path, str, bool, Barrier], None]
) -> None:
    errors = two_writers(tmp_path / "x", write, overwrite=False)
    assert sorted(type(error).__name__ for error in errors) == ["FileExistsError", "NoneType"]
    assert written_by(tmp_path / "x") == {"one" if errors[0] is None else "two"}
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("write", [write_folder, write_file])
@pytest.mark.parametrize("at_once", [True, False], ids=["swapped", "two-renames"])
def test_of_two_overwriters_one_wins_whole(
    tmp_path: Path,
    write: Callable[[Path, str, bool, Barrier], None],
    at_once: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not at_once:
        monkeypatch.setattr("gacfx.core.files.atomic.exchange", lambda *_: False)
    for _ in range(5):
        assert two_writers(tmp_path / "x", write, overwrite=True) == [None, None]
        assert len(written_by(tmp_path / "x")) == 1
    assert names(tmp_path) == ["x"]


def test_a_writer_between_its_two_renames_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries = tmp_path / "d", []
    path.mkdir()
    (path / "old").touch()

    def moved_away_once(one: Path, two: Path) -> bool:
        tries.append(two)
        if len(tries) == 1:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(two))
        return exchange(one, two)

    monkeypatch.setattr("gacfx.core.files.atomic.exchange", moved_away_once)
    with replacing_folder(path) as partial:
        (partial / "new").touch()
    assert tries == [path, path]
    assert names(path) == ["new"] and names(tmp_path) == ["d"]


def test_two_renames_put_the_old_folder_back_when_the_second_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def fails_onto_nothing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and not target.exists():
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr("gacfx.core.files.atomic.exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails_onto_nothing)
    with pytest.raises(PermissionError), replacing_folder(path) as partial:
        (partial / "new").touch()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["d"]


def test_a_file_is_not_replaced_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    with replacing(tmp_path / "f", overwrite=False) as partial:
        partial.write_text("old")
    with (
        pytest.raises(FileExistsError, match=f"{tmp_path / 'f'}"),
        replacing(tmp_path / "f", overwrite=False) as partial,
    ):
        partial.write_text("new")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


# -- what is no file -----------------------------------------------------------------------------


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(OSError, match="pipe or a device"), replacing(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    for folder in (real, link):
        folder.mkdir()
    (real / "f").write_text("old")
    (link / "f").symlink_to(real / "f")
    with replacing(link / "f") as partial:
        partial.write_text("new")
    assert (link / "f").is_symlink() and (real / "f").read_text() == "new"
    (tmp_path / "d").symlink_to(real)
    with replacing_folder(tmp_path / "d") as partial:
        (partial / "g").touch()
    assert (tmp_path / "d").is_symlink() and names(real) == ["g"]
