"""Temporary names beside a target, and what a killed writer left under them.

A name says who made it: ``.small.3fa9c1-4711-9d2c51ab.partial`` was made on machine 3fa9c1 by
process 4711. The next write to ``small`` finds it, and removes it when that process is dead. Names
of other machines and containers are left alone, because nobody here can tell whether their writer
lives.
"""

import hashlib
import os
import platform
import re
import secrets
import shutil
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

PARTIAL, OLD, MODE = "partial", "old", "mode"
_TAIL = re.compile(r"([0-9a-f]{6})-([0-9]{1,9})-[0-9a-f]{8}\.(partial|old|mode)")

_OF_SAFETENSORS = ".tmp"
"""It writes beside the name that it is given, and renames."""


class LeftBehind(UserWarning):
    """A writer was killed; what it left was removed, or put back.

    A warning and no line on the error stream: whoever writes from Python can filter it, and the
    command line prints it as one line.
    """


def beside(path: Path, what: str) -> Path:
    """A name that nobody has, in the folder of ``path``: on one file system renaming works."""
    tail = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{tail}.{what}")


def tidy(path: Path) -> None:
    """Remove what dead writers left beside ``path``, and say so.

    A folder that was moved aside is put back when there is nothing at ``path``: its writer died
    between two renames.
    """
    found = _of_dead_writers(path)
    aside = [old for old in found if old.name.endswith(f".{OLD}")]
    if aside and not os.path.lexists(path):
        with suppress(FileNotFoundError):  # another process was faster
            last = max(aside, key=lambda old: old.stat().st_mtime_ns)
            last.rename(path)
            _warn(f"{path}: a writer was killed between two renames; the earlier folder is back")
        found = [one for one in found if os.path.lexists(one)]
    if found:
        for one in found:
            _remove(one)
        names = ", ".join(one.name for one in found)
        _warn(f"{path}: removed what a killed writer had left beside it: {names}")


def sweep(folder: Path) -> None:
    """Remove temporary files of any writer from a folder that only this process writes to."""
    for path in sorted(folder.glob(".*")):
        if _TAIL.search(path.name) or path.name.startswith(_OF_SAFETENSORS):
            _remove(path)


def _of_dead_writers(path: Path) -> list[Path]:
    start, found = f".{path.name}.", []
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:  # no such folder, or one that cannot be listed: the writer says it better
        return []
    for name in names:
        match = _TAIL.fullmatch(name.removeprefix(start)) if name.startswith(start) else None
        if match and match[1] == _machine() and not _lives(int(match[2])):
            found.append(path.with_name(name))
    return found


def _lives(pid: int) -> bool:
    if os.name != "posix":  # asking elsewhere may end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _warn(message: str) -> None:
    warnings.warn(message, LeftBehind, stacklevel=3)


@cache
def _machine() -> str:
    """Processes with one value see each other's ids: the same host, the same container."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:6]
