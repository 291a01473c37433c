"""Write files and folders so that a reader meets the old one or the new one, never a half."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; on success the file there takes the place of ``path``."""
    partial = _beside(path, "partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``; on success it takes the place of ``path``.

    A folder that was at ``path`` is moved aside first and deleted last. After an error, in the body
    or in the moving, the old folder is where it was and the new one is gone.
    """
    partial, old = _beside(path, "partial"), _beside(path, "old")
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, what: str) -> Path:
    # The same folder is the same file system, where renaming is atomic; two writers never collide.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{what}")
