"""The long run, ``make test-long``: collected only where LONG_PROBLEMS says how many to try.

At the end it prints how much was tried of each kind; LONG_OUT names a file for the same as JSON.
"""

import os
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record

collect_ignore_glob = [] if os.environ.get("LONG_PROBLEMS") else ["test_*.py"]
BEGIN = time.time()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the sums, and write them if somebody wants them."""
    ended = {how: terminalreporter.stats.get(how, []) for how in ("passed", "failed", "error")}
    faults = len(ended["failed"]) + len(ended["error"])
    tried: dict[str, Counter[str]] = defaultdict(Counter)
    extremes = {}
    for report in ended["passed"]:
        for name, found in report.user_properties:
            if name == "extreme":
                extremes[found.pop("name")] = found
            elif name == "trials":
                tried[found.pop("kind")].update(found)
    if not tried and not extremes:
        return
    total = sum(tried.values(), Counter())
    terminalreporter.section("tried")
    for kind, counts in [*sorted(tried.items()), ("all", total)]:
        amounts = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
        terminalreporter.write_line(f"{kind:15} {amounts}")
    for name, found in sorted(extremes.items()):
        terminalreporter.write_line(f"{name:20} {found}")
    if out := os.environ.get("LONG_OUT"):
        write(Path(out), tried, total, extremes, faults)


def write(
    out: Path,
    tried: dict[str, Counter[str]],
    total: Counter[str],
    extremes: dict[str, Any],
    faults: int,
) -> None:
    """The sums as a benchmark record."""
    record.write(
        "planning_long",
        {
            "command": "make test-long",
            "asked_problems": int(os.environ["LONG_PROBLEMS"]),
            "seed": int(os.environ.get("LONG_SEED", "0")),
            "faults": faults,
            "seconds": round(time.time() - BEGIN),
            "all": dict(total),
            "kinds": {kind: dict(counts) for kind, counts in sorted(tried.items())},
            "extremes": dict(sorted(extremes.items())),
        },
        out,
    )


@pytest.fixture
def long_seed() -> int:
    """LONG_SEED, so that another run tries other problems."""
    return int(os.environ.get("LONG_SEED", "0"))
