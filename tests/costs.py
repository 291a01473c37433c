"""What the tests cost, in seconds of the processor: a plugin of pytest.

    python -m pytest -p tests.costs                          the dearest files and tests
    make test PYTEST_ARGS="-n auto --dist loadfile -p tests.costs"

``--durations`` counts time on the wall, which says little about a test on a busy machine. Counted
are the process that runs a test, and the programs that it waits for; not what it starts through
:mod:`tests.processes` and :mod:`tests.stock`, where another process does the waiting.
"""

import os
from collections import defaultdict
from collections.abc import Generator

import pytest

KEY = "processor_s"
MOST = 40
"""Lines of each table."""
BEGAN = pytest.StashKey[float]()

tests: dict[str, float] = defaultdict(float)
"""Test -> seconds, of whichever process ran it."""


def spent() -> float:
    """Seconds of the processor so far: of this process, and of those that it has waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """From here, with the fixtures that are made for it first."""
    item.stash[BEGAN] = spent()
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """To here; the last report of a test carries it, from a process of xdist as well."""
    try:
        yield
    finally:
        item.user_properties.append((KEY, spent() - item.stash[BEGAN]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what a test cost."""
    if report.when == "teardown":
        tests[report.nodeid] += float(str(dict(report.user_properties)[KEY]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables, dearest first."""
    files: dict[str, float] = defaultdict(float)
    for test, cost in tests.items():
        files[test.partition("::")[0]] += cost
    terminalreporter.section(f"{sum(tests.values()):.1f} s of the processor")
    for found in (files, tests):
        for name, cost in sorted(found.items(), key=lambda each: -each[1])[:MOST]:
            terminalreporter.write_line(f"{cost:8.2f}  {name}")
