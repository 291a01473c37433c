"""Targets: whether something can be written there, asked before the work that makes it.

And what writers raise, as one line: disks fill up while a file is written.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gacfx.core.files.leftovers import MODE, beside, tidy
from gacfx.core.names import one_line
from gacfx.errors import CheckpointError


def check_folder(
    path: Path, *, overwrite: bool, holds: tuple[str, ...] = (), what: str = ""
) -> None:
    """Nothing when a folder can be written at ``path``; missing parents are made by the writer.

    Args:
        path: the target; a link to a folder stands for that folder.
        overwrite: a folder that is not empty may be replaced.
        holds: only a folder with one of these files is replaced.
        what: such a folder, in words.

    Raises:
        CheckpointError: it is a file, not empty, another folder than asked for, or nothing can be
            written there.
    """
    path = _real(path)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: is a file; name a folder")
    tidy(path)  # may put a folder back
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise CheckpointError(
                f"{path}: exists and is not empty; allow overwrite (--overwrite) or name another"
            )
        if holds and not any((path / name).exists() for name in holds):
            raise CheckpointError(
                f"{path}: is not {what} (it has no {' or '.join(holds)}), so it is not overwritten"
            )
    _try_to_write(path)


def check_file(path: Path, *, overwrite: bool) -> None:
    """Nothing when a file can be written at ``path``; missing parents are made by the writer.

    Raises:
        CheckpointError: it is a folder, a device, there already, or nothing can be written there.
    """
    path = _real(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a file")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: is a pipe or a device; name a file")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path}: exists; allow overwrite (--overwrite) or name another")
    _try_to_write(path)


def check_space(path: Path, needed_bytes: int) -> None:
    """Nothing when the file system of ``path`` has about so much room.

    Raises:
        CheckpointError: it has less; says both numbers.
    """
    disk = shutil.disk_usage(_nearest(_real(path)))
    if disk.total and disk.free < needed_bytes:  # some network file systems tell nothing
        raise CheckpointError(
            f"{path}: {disk.free / 1e6:,.1f} MB are free there, and about "
            f"{needed_bytes / 1e6:,.1f} MB will be written; make room or name another place"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails in the body is a failure to write ``path``, said in one line.

    Raises:
        CheckpointError: for OSError, and for what safetensors raises for it.
    """
    from safetensors import SafetensorError

    try:
        yield
    except FileExistsError as error:
        raise CheckpointError(
            f"{path}: exists, another writer may have been faster; "
            "allow overwrite (--overwrite) or name another"
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {one_line(error)}") from error
    except BaseException as error:
        # Rust code that panics; the class cannot be imported, and is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path}: cannot be written: {one_line(error)}") from error


def _real(path: Path) -> Path:
    """The path behind links.

    Raises:
        CheckpointError: a link that leads nowhere or in a circle.
    """
    try:
        nowhere = [p for p in (path, *path.parents) if p.is_symlink() and not p.exists()]
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
    for link in nowhere:
        raise CheckpointError(
            f"{link}: is a link that leads nowhere ({os.readlink(link)}); remove it or name another"
        )
    return Path(os.path.realpath(path))


def _nearest(path: Path) -> Path:
    """The folder that is there and in which ``path`` or its missing parents would be made."""
    return next(parent for parent in path.parents if os.path.lexists(parent))


def _try_to_write(path: Path) -> None:
    if path == path.parent:
        raise CheckpointError(f"{path}: is the root of the file system; name a folder in it")
    folder = _nearest(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path}: cannot be written: {folder} is no folder")
    probe = folder / beside(path, MODE).name  # as long as the temporary names will be
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
