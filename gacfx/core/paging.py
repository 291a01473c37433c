"""Memory of files that are mapped: given back while the process works, and read again when needed.

Weights of a checkpoint that is loaded in its own dtype lie in its files, which the system maps into
memory page by page; so do tensors that are read from a work folder. Pages that were touched stay,
until somebody else wants the memory, so a process seems to hold the whole model. Inside
:func:`lean` a thread gives pages back as soon as there are more than so many of them.

The system takes pages only of files that this user owns or may write, and only Linux from 5.4 on
with the GNU C library does this; elsewhere nothing happens. Nothing is lost in any case: the system
reads a page again, and pages that were changed are not those of a file.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread

LEAST_BYTES, MOST_BYTES = 2**28, 2**31
"""Pages of mapped files that may stay: for a small model, and for the largest."""
PARTS = 16
"""Of a model, of which one may stay; its layers are smaller, so that none is read twice at work."""
SECONDS = 0.02
"""Between two looks."""
LITTLE, MOST_LOOKS = 0.9, 256
"""A page-out that leaves more than this share doubles the looks until the next one, to at most so
many."""
TRIM = 25
"""Looks between two times that memory which was freed goes back to the system: the C library keeps
it for tensors of other sizes, which may never come."""
_PAGEOUT = 21
"""MADV_PAGEOUT of linux/mman.h: reclaim these pages, which are written or read again if needed."""
_SUFFIX = ".safetensors"


def pages_of(folder: str | Path) -> int:
    """Bytes that may stay while the checkpoint of a folder is worked on."""
    sizes = [path.stat().st_size for path in Path(folder).expanduser().glob(f"*{_SUFFIX}")]
    return pages_of_bytes(sum(sizes))


def pages_of_bytes(model: int) -> int:
    """The same of a model of so many bytes."""
    return min(max(model // PARTS, LEAST_BYTES), MOST_BYTES)


@contextmanager
def lean(most_bytes: int = LEAST_BYTES) -> Iterator[None]:
    """Inside, mapped files take about ``most_bytes`` more memory than before, at most."""
    if not _able():
        yield
        return
    stop, most = Event(), mapped_bytes() + most_bytes
    thread = Thread(target=_watch, args=(stop, most), name="gacfx-paging", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(stop: Event, most: int) -> None:
    looks, wait = 0, 1
    while not stop.wait(SECONDS):
        looks += 1
        if looks % wait == 0 and (held := mapped_bytes()) > most:
            page_out()
            # Where little comes back, asking again soon would only cost time.
            wait = 1 if mapped_bytes() < LITTLE * held else min(2 * wait, MOST_LOOKS)
        if looks % TRIM == 0:
            _libc().malloc_trim(0)


def mapped_bytes() -> int:
    """Bytes of this process that are pages of files, code included; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def page_out() -> None:
    """Give back the pages of all files of tensors; nothing happens where that cannot be done."""
    if not _able():
        return
    for start, end in _mappings():
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGEOUT)


def _mappings() -> list[tuple[int, int]]:
    """(start, end) of the memory that shows files of tensors."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].removesuffix(" (deleted)").endswith(_SUFFIX):
            start, _, end = fields[0].partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


@cache
def _able() -> bool:
    gnu = sys.platform == "linux" and hasattr(_libc(), "malloc_trim")
    return gnu and Path("/proc/self/maps").exists()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
