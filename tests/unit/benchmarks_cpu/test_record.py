"""What a record of a benchmark says of how to repeat it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import record


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ("benchmarks.parse.cost", "benchmarks.parse.cost"),
        ("benchmarks.cost", "benchmarks.cost"),
        ("benchmarks.gpu.__main__", "benchmarks.gpu"),
        ("pytest.__main__", "benchmarks.parse_cost"),
        (None, "benchmarks.parse_cost"),
    ],
)
def test_the_command_is_the_module_that_runs(
    runs: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file of its results is called."""
    spec = None if runs is None else SimpleNamespace(name=runs)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, "argv", ["cost.py", "--seqs", "4 8"])
    path = record.write("parse_cost", {"rows": []}, tmp_path / "found.json")
    found = json.loads(path.read_text())
    assert found["command"] == f"python -m {said} --seqs '4 8'" and found["rows"] == []
