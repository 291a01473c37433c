"""Write files and folders so that a reader meets the old one or the new one, never a half.

What is written has the permissions that ``open`` would give it. Some writers (safetensors) make
private files of their own and rename them, and nobody else could read those.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; on success the file there takes the place of ``path``.

    A new file gets the mode that the umask leaves; one that was there keeps its mode.
    """
    partial = _beside(path, "partial")
    try:
        yield partial
        partial.chmod(S_IMODE(path.stat().st_mode) if path.exists() else _mode_of_new(path))
        os.replace(partial, path)
    except OSError as error:
        if error.filename not in (partial, str(partial)):
            raise
        # Nobody asked for the temporary name.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``; on success it takes the place of ``path``.

    A folder that was at ``path`` is moved aside first and deleted last. After an error, in the body
    or in the moving, the old folder is where it was and the new one is gone. All files of the new
    folder get the mode that the umask leaves.
    """
    partial, old = _beside(path, "partial"), _beside(path, "old")
    partial.mkdir()
    try:
        yield partial
        mode = _mode_of_new(path)
        for file in partial.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode)
        if path.exists():
            path.rename(old)
        partial.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _mode_of_new(path: Path) -> int:
    """The mode of a file that is made beside ``path``.

    It is looked at, because a process can read its umask only by setting another one, which other
    threads would meet.
    """
    probe = _beside(path, "mode")
    try:
        probe.touch(exist_ok=False)
        return S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def _beside(path: Path, what: str) -> Path:
    # The same folder is the same file system, where renaming is atomic; two writers never collide.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{what}")
