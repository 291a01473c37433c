"""Tasks for an executor: a few at a time, results in order, and failures in one line.

Any :class:`concurrent.futures.Executor` will do: a pool of processes, Dask's
``Client.get_executor()``, MPI's, Ray's. It has to be able to pickle functions and tasks.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from typing import TypeVar

from gacfx.core.names import one_line
from gacfx.errors import GacError, WorkerFailed

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 4
"""Of an executor that does not tell how many it has."""


def workers(executor: Executor) -> int:
    """How many tasks the executor works on at once, as far as it tells."""
    found = getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) and found > 0 else WORKERS


def results(
    executor: Executor,
    run: Callable[[T], R],
    tasks: Iterable[tuple[str, T | None]],
    *,
    ahead: int,
) -> Generator[R | None, None, None]:
    """What becomes of each task, in the order of the tasks.

    Whoever closes the iterator early cancels what has not begun.

    Args:
        executor: works on the tasks; it is not shut down.
        run: a function of a module, so that it can be found elsewhere.
        tasks: (name for messages, task), taken as they are sent; a task that is None gives None.
        ahead: tasks that are sent and whose results nobody has taken, at most: so many are in
            memory.

    Raises:
        WorkerFailed: a worker died, or it failed at a task by an error that is none of gacfx.
    """
    waiting: deque[tuple[str, Future[R] | None]] = deque()
    try:
        coming = iter(tasks)
        while True:
            while len(waiting) >= max(ahead, 1):
                yield _result(*waiting.popleft())
            if (following := next(coming, None)) is None:
                break
            name, task = following
            with _told(name):
                waiting.append((name, None if task is None else executor.submit(run, task)))
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()


def _result(name: str, future: "Future[R] | None") -> R | None:
    with _told(name):
        return None if future is None else future.result()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What an executor raises, as an error of gacfx."""
    try:
        yield
    except GacError:
        raise
    except BrokenExecutor as error:
        raise WorkerFailed(
            f"{name}: a worker ended before its task was done, perhaps for want of memory; have "
            "fewer workers, or none"
        ) from error
    except Exception as error:  # whatever the executor, or what it ran, raises
        raise WorkerFailed(
            f"{name}: a worker failed, {type(error).__name__}: {one_line(error)}"
        ) from error
