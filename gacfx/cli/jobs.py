"""``--jobs N``: processes that decompose weights beside this one."""

import argparse
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.work import Work


def add(command: argparse.ArgumentParser) -> None:
    """Add the option to a command."""
    command.add_argument(
        "--jobs",
        metavar="N",
        type=options.positive,
        help="decompose weights in N processes of one thread each (default: in this one)",
    )


@contextmanager
def working(
    arguments: argparse.Namespace, folder: Path | str | None, *, temporary: bool = False
) -> "Iterator[Work]":
    """The work of a command, with its processes; what cannot be used here is refused first."""
    from gacfx.work import Work

    disk, device = getattr(arguments, "disk", None), getattr(arguments, "device", None)
    with workers(getattr(arguments, "jobs", None)) as pool:
        yield Work(folder, disk=disk, device=device, executor=pool, temporary=temporary)


@contextmanager
def workers(jobs: int | None) -> Iterator[Executor | None]:
    """A pool of so many processes of one thread each; None for no number.

    Whatever ends the work early ends the processes, too.
    """
    if jobs is None:
        yield None
        return
    before = {*active_children()}
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in {*active_children()} - before:
            process.terminate()
        raise
    pool.shutdown()


def _begin() -> None:
    """What a worker does first."""
    import torch

    torch.set_num_threads(1)
    # Ctrl-C reaches every process of a terminal; the one that has the pool ends it, in one line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """No worker outlives a parent that was killed."""
    if (parent := parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)
