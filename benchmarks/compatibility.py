"""docs/compatibility.md, made of the results of .ci/matrix.py.

python -m benchmarks.compatibility                # write the page anew
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpu.tables import NONE, table

OUT = record.RESULTS / "compatibility.json"
PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"

_HEAD = """\
# Versions that gacfx was run with

Each row is one environment in which the tests that depend on torch and transformers were run on a
CPU ([results](../benchmarks/results/compatibility.json)). One command makes the environment, runs
the tests and renews its row here:

    {command}

What differs between versions is in one file, [gacfx/graph/compat.py](../gacfx/graph/compat.py).
The set that all tests run with is [constraints.txt](../constraints.txt).

"""
_KNOWN = """
transformers 5.24.0 itself does not run Llama 4 with its image tower (`MoeCausalLMOutputWithPast`
has no `image_outputs`); its test is skipped there. Tests that only repeat others are skipped
everywhere. Versions without a row were not run.
"""
_FAILING = """
## What fails

"""
_TESTS = """
## What was run

{tests}.
"""


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    rows: Sequence[dict[str, Any]] = results["rows"]
    head = _HEAD.format(command=results["command"])
    tests = _TESTS.format(tests=", ".join(f"`{each}`" for each in results["tests"]))
    return "".join((head, versions(rows), _KNOWN, failing(rows), tests))


def versions(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each environment."""
    header = ["Python", "torch", "transformers", ">passed", ">failed", ">skipped", "run"]
    return table(header, [_line(row) for row in rows]).markdown()


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(row[name] or NONE) for name in ("passed", "failed", "skipped"))
    return (row["python"], row["torch"], row["transformers"], *counts, row["date"])


def failing(rows: Sequence[dict[str, Any]]) -> str:
    """Each failing test with its first line and where it fails; empty where none does."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        where = f"Python {row['python']}, torch {row['torch']}, transformers {row['transformers']}"
        for each in row["failing"]:
            found.setdefault((each["name"], each["error"]), []).append(where)
    if not found:
        return ""
    lines = [(name, error, "; ".join(where)) for (name, error), where in found.items()]
    return _FAILING + table(["test", "says", "with"], lines).markdown()


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(OUT.read_text(encoding="utf-8"))), encoding="utf-8")
