"""A store in a folder: a file for each set, and a journal with the sha256 of every one.

Killed at any moment, what it holds is whole: a file appears under its name when it is complete, and
counts when the journal says so. A file that was changed or damaged is not there, so that whoever
needs it makes it again.
"""

import hashlib
import json
import math
import os
import shutil
import string
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from gacfx.core.files.atomic import replacing
from gacfx.core.files.leftovers import sweep
from gacfx.core.files.reading import check_regular
from gacfx.core.files.targets import check_folder, writing
from gacfx.core.names import odd_text, printable
from gacfx.core.store import Store
from gacfx.errors import CheckpointError

FORMAT = "gacfx-work"
VERSION = 3
JOURNAL = "journal.json"
_LOCK = "gacfx.lock"
_SAME = "same"
_LETTERS = frozenset(string.ascii_letters + string.digits + "._-")

Key = dict[str, Any]
"""What the work is of: plain JSON values."""


class _InUseError(CheckpointError):
    """Another process works in a folder."""


class WorkFolder(Store):
    """A folder that one process at a time works in.

    with WorkFolder(path, key) as store:
        ...
    """

    def __init__(
        self,
        path: str | Path,
        key: Key,
        *,
        most_bytes: int | None = None,
        temporary: bool = False,
    ) -> None:
        """Begin, or go on with what is there.

        Args:
            path: of the folder; made if there is none.
            key: what the work is of; a folder belongs to one.
            most_bytes: that its files may take; None for as many as there is disk.
            temporary: ``remove_work`` may remove it. One that somebody opened without saying so
                stays.

        Raises:
            CheckpointError: another process works there, it belongs to other work, it is no work
                folder and not empty, or nothing can be written there.
        """
        self.path, self._key = Path(path), json.loads(json.dumps(key))
        self.most_bytes = most_bytes
        check_work(self.path)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        # Whoever forgets to close it lets go of it with the object.
        self._let_go = weakref.finalize(self, os.close, lock)
        try:
            _lock(lock, self.path)
            self._files, was_temporary = self._read()
        except BaseException:
            self._let_go()
            raise
        sweep(self.path)
        self._sure = set[str]()
        self._alive: weakref.WeakValueDictionary[tuple[str, str], Tensor] = (
            weakref.WeakValueDictionary()
        )
        self._same: dict[str, dict[str, str]] = {}
        self._temporary = temporary and was_temporary
        if not self._files or self._temporary != was_temporary:
            self._write()

    @property
    def key(self) -> Key:
        """What the work is of."""
        return dict(self._key)

    def __enter__(self) -> "WorkFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others work in the folder."""
        self._let_go()

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name not in self._files:
            return False
        if name not in self._sure:
            path = self._file(name)
            if not path.is_file() or _sha256(path) != self._files[name]:
                return False
            self._sure.add(name)
        return True

    def keys(self, name: str) -> tuple[str, ...]:
        return tuple(self._keys(name))

    def get(self, name: str, key: str) -> Tensor:
        from safetensors import safe_open

        stored = self._keys(name)[key]
        tensor = self._alive.get((name, stored))
        if tensor is None:
            # Opened for each tensor: the pages of one file stay in memory until it is closed.
            with safe_open(self._file(name), framework="pt") as file:
                tensor = file.get_tensor(stored)
            self._alive[name, stored] = tensor
        return tensor

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save_file

        first: dict[int, str] = {}
        same = {key: first.setdefault(id(tensor), key) for key, tensor in tensors.items()}
        own = {key: tensors[key].contiguous() for key in first.values()}
        self._forget(name)
        path = self._file(name)
        with writing(self.path), replacing(path) as partial:
            save_file(own, partial, metadata={_SAME: json.dumps(same)})
            digest = _sha256(partial)
        self._files[name], self._same[name] = digest, same
        self._sure.add(name)
        self._write()

    def drop(self, name: str) -> None:
        if self._forget(name):
            self._write()
        with suppress(FileNotFoundError):
            self._file(name).unlink()

    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def clear(self) -> None:
        for name in self.names():
            self._forget(name)
        self._write()
        with writing(self.path):
            _empty(self.path)

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size if name in self else 0

    def room(self) -> float:
        if self.most_bytes is None:
            return math.inf
        return self.most_bytes - sum(file.stat().st_size for file in self.path.iterdir())

    def _forget(self, name: str) -> bool:
        """Nothing is known of it any more; whether anything was."""
        self._sure.discard(name)
        self._same.pop(name, None)
        for known in [one for one in self._alive.keys() if one[0] == name]:  # noqa: SIM118  # weak
            self._alive.pop(known, None)
        return self._files.pop(name, None) is not None

    def _keys(self, name: str) -> dict[str, str]:
        """Key -> key that its tensor has in the file."""
        from safetensors import safe_open

        if name not in self._same:
            with safe_open(self._file(name), framework="pt") as file:
                self._same[name] = json.loads((file.metadata() or {})[_SAME])
        return self._same[name]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"

    def _read(self) -> tuple[dict[str, str], bool]:
        """Name -> sha256 of the file, of what the journal says is there; and whether all who
        opened the folder called it temporary."""
        path = self.path / JOURNAL
        if not path.exists():
            return {}, True
        check_regular(path)
        try:
            journal = json.loads(path.read_text(encoding="utf-8"))
            found = journal["format"], journal["version"]
            key, files = journal["key"], {**journal["files"]}
            temporary = journal["temporary"] is True
        except (OSError, TypeError, KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: is no journal of a work folder ({type(error).__name__}); remove the "
                "folder to begin anew"
            ) from error
        if found != (FORMAT, VERSION):
            said = printable(repr(found))
            raise CheckpointError(f"{path}: format {said}; this gacfx reads {FORMAT} {VERSION}")
        if key != self._key:
            raise CheckpointError(f"{self.path}: is of other work: {difference(key, self._key)}")
        if odd_text([files]) or any(not _is_name(n) or not _is_digest(d) for n, d in files.items()):
            raise CheckpointError(f"{path}: names what is no file; remove the folder to begin anew")
        return files, temporary

    def _write(self) -> None:
        journal = {
            "format": FORMAT,
            "version": VERSION,
            "temporary": self._temporary,
            "key": self._key,
            "files": self._files,
        }
        with writing(self.path), replacing(self.path / JOURNAL) as partial:
            partial.write_text(json.dumps(journal, indent=1) + "\n", encoding="utf-8")


def check_work(path: Path) -> None:
    """Nothing when work can be begun or gone on with at ``path``.

    Raises:
        CheckpointError: it is a file or another folder, or nothing can be written there.
    """
    check_folder(path, overwrite=True, holds=(JOURNAL, _LOCK), what="a work folder")


def key_of(path: str | Path) -> object:
    """The key of a work folder, of whatever kind it is; None where there is no journal."""
    return _journal(Path(path)).get("key")


def remove_work(path: Path) -> None:
    """Remove a temporary work folder; anything else stays.

    One in which another process works stays, and a link with what it leads to.

    Raises:
        CheckpointError: it cannot be removed.
    """
    if path.is_symlink() or not (path / JOURNAL).is_file():
        return
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(lock, path)
        own = _journal(path).get("temporary") is True
        if own:
            with writing(path):
                _empty(path)
    except _InUseError:
        return
    finally:
        os.close(lock)
    if own:
        with writing(path):
            # What only says that it is a work folder goes last: a removal can be repeated.
            for name in (JOURNAL, _LOCK):
                (path / name).unlink()
            path.rmdir()


def _empty(path: Path) -> None:
    for file in path.iterdir():
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        elif file.name not in (JOURNAL, _LOCK):
            file.unlink()


def _journal(path: Path) -> dict[str, Any]:
    """What the journal of a folder says, of whatever kind it is; nothing where there is none."""
    try:
        journal = json.loads((path / JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return journal if isinstance(journal, dict) else {}


def difference(there: object, asked: Key) -> str:
    """The first entry in which the key of a folder and the one that was asked for differ."""
    if not isinstance(there, dict):
        return "its key is no table"
    for name in sorted(there.keys() | asked.keys()):
        old, new = there.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return difference(old, new)
        if old != new:
            said, wanted = (printable(repr(one))[:80] for one in (old, new))
            return (
                f"its {printable(name)} is {said}, and {wanted} is asked for; name another folder"
            )
    return "nothing"


def _is_name(name: object) -> bool:
    """A plain file name, so that nothing outside the folder is meant."""
    return isinstance(name, str) and name != "" and set(name) <= _LETTERS and name[0] != "."


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # another system: two processes are the user's care
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process
    except OSError as error:
        raise _InUseError(
            f"{path}: another process works there; wait for it, or name another folder"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
