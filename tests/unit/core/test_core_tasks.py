"""Tasks of an executor: in order, a few at a time, and every failure as one error of gacfx."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from gacfx.core.tasks import WORKERS, results, workers
from gacfx.errors import CalibrationError, WorkerFailed


class Later(Executor):
    """Runs a task only when its result is asked for; knows the most that waited at once."""

    def __init__(self) -> None:
        self.waiting, self.most, self.cancelled = 0, 0, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        executor = self

        class Asked(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                del timeout
                executor.waiting -= 1
                return fn(*args, **kwargs)

            def cancel(self) -> bool:
                executor.cancelled += 1
                return True

        return Asked()


def named(count: int) -> Iterator[tuple[str, int | None]]:
    """Tasks, of which every fourth is none."""
    for at in range(count):
        yield f"task {at}", None if at % 4 == 3 else at


def square(number: int) -> int:
    return number * number


def test_results_come_in_order_and_few_tasks_wait() -> None:
    later = Later()
    assert list(results(later, square, named(9), ahead=3)) == [0, 1, 4, None, 16, 25, 36, None, 64]
    assert later.most == 3
    with ThreadPoolExecutor(3) as threads:
        assert list(results(threads, square, named(5), ahead=8)) == [0, 1, 4, None, 16]
    assert list(results(later, square, named(2), ahead=0)) == [0, 1]


def test_whoever_stops_early_cancels_the_rest() -> None:
    later = Later()
    found = results(later, square, named(9), ahead=3)
    assert next(found) == 0
    found.close()
    assert later.cancelled == 2


def test_tasks_that_have_not_begun_never_do() -> None:
    go, ran = Event(), list[int]()

    def run(number: int) -> int:
        ran.append(number)
        go.wait()
        return number

    with ThreadPoolExecutor(1) as threads:

        def interrupted() -> Iterator[tuple[str, int]]:
            yield from ((str(at), at) for at in range(3))
            raise KeyboardInterrupt

        found = results(threads, run, interrupted(), ahead=5)
        with pytest.raises(KeyboardInterrupt):
            next(found)
        go.set()
    assert ran == [0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("of two\nlines"), "^task 0: a worker failed, ValueError: of two lines$"),
        (MemoryError(), "^task 0: a worker failed, MemoryError: $"),
        (CancelledError(), "^task 0: a worker failed, CancelledError: $"),
    ],
)
def test_failures_are_told_in_one_line(error: Exception, said: str) -> None:
    def fails(_: int) -> int:
        raise error

    with pytest.raises(WorkerFailed, match=said):
        list(results(Later(), fails, named(1), ahead=1))


def test_what_gacfx_raises_stays_what_it_is() -> None:
    def fails(_: int) -> int:
        raise CalibrationError("bad text")

    with pytest.raises(CalibrationError, match="^bad text$"):
        list(results(Later(), fails, named(1), ahead=1))


def test_an_executor_that_was_shut_down() -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(WorkerFailed, match="^task 0: a worker failed, RuntimeError: cannot"):
        list(results(threads, square, named(1), ahead=1))


def test_how_many_workers_there_are() -> None:
    assert workers(Later()) == WORKERS
    with ThreadPoolExecutor(7) as threads:
        assert workers(threads) == 7
