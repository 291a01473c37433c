"""Write files and folders so that a reader meets the old one or the new one, never a half.

What is written has the permissions that ``open`` would give it. Some writers (safetensors) make
private files of their own and rename them, and nobody else could read those. A symbolic link is
followed: what it leads to is replaced, and the link stays.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

from gacfx.core.files.exchange import exchange
from gacfx.core.files.leftovers import MODE, OLD, PARTIAL, beside, tidy

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
_TRIES = 100
"""Of a writer that others overtake; each of them replaced the whole folder meanwhile."""


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary name beside ``path``; on success the file there takes the place of ``path``.

    A new file gets the mode that the umask leaves; one that was there keeps its mode.

    Raises:
        FileExistsError: something is at ``path`` when the new file is complete, and ``overwrite``
            is false.
        OSError: it cannot be written, or is a pipe or a device.
    """
    path = _followed(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    tidy(path)
    partial = beside(path, PARTIAL)
    try:
        yield partial
        partial.chmod(S_IMODE(path.stat().st_mode) if path.exists() else _mode_of_new(path))
        _place_file(partial, path, overwrite=overwrite)
    except OSError as error:
        if error.filename not in (partial, str(partial)):
            raise
        # Nobody asked for the temporary name.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A new folder beside ``path``; on success it takes the place of ``path``.

    On Linux the two are swapped in one step, so that there is a whole folder at ``path`` at every
    moment. Elsewhere the old one is moved aside first; a writer that is killed between the two
    renames leaves it there, and the next one puts it back. After an error, in the body or in the
    moving, the old folder is where it was and the new one is gone. All files of the new folder get
    the mode that the umask leaves.

    Raises:
        FileExistsError: a folder that is not empty is at ``path`` when the new one is complete, and
            ``overwrite`` is false.
    """
    path = _followed(path)
    tidy(path)
    partial = beside(path, PARTIAL)
    partial.mkdir()
    try:
        yield partial
        mode = _mode_of_new(path)
        for file in partial.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode)
        _place_folder(partial, path, overwrite=overwrite)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """``folder`` and its parents are there; those that were made go again when the body fails."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for one in new:
            with suppress(OSError):  # somebody else put something in it
                one.rmdir()
        raise


def _place_file(partial: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(partial, path)
        return
    try:
        os.link(partial, path)  # refuses what is there, in one step
    except FileExistsError:
        raise
    except OSError as error:  # a file system without second names
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from error
        os.replace(partial, path)


def _place_folder(partial: Path, path: Path, *, overwrite: bool) -> None:
    for _ in range(_TRIES):
        try:
            partial.rename(path)  # onto nothing or an empty folder
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if not overwrite:
            raise FileExistsError(errno.EEXIST, "another writer was faster", str(path))
        try:
            if exchange(partial, path):
                return
            _move_aside(partial, path)
            return
        except FileNotFoundError:  # another writer is between its two renames
            continue
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    raise OSError(errno.EBUSY, "other writers replace it all the time", str(path))


def _move_aside(partial: Path, path: Path) -> None:
    """Two renames; the old folder is put back when the second one fails, and only then: another
    writer may have moved the new one aside already."""
    old = beside(path, OLD)
    path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        with suppress(OSError):  # a third folder is there
            old.rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _followed(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _mode_of_new(path: Path) -> int:
    """The mode of a file that is made beside ``path``.

    It is looked at, because a process can read its umask only by setting another one, which other
    threads would meet.
    """
    probe = beside(path, MODE)
    try:
        probe.touch(exist_ok=False)
        return S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
