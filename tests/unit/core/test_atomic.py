"""replacing and replacing_folder: the old one or the new one, and no litter."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_IMODE

import numpy as np
import pytest
from safetensors.numpy import save_file

from gacfx.core.atomic import replacing, replacing_folder


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
