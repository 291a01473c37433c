"""Every example runs as a user would run it, and prints something."""

from pathlib import Path

import pytest

from tests.processes import run

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


LONG = ("07_export",)
"""Whose parts have tests of their own."""
MARKED = [
    pytest.param(each, marks=pytest.mark.exhaustive) if each.stem in LONG else each
    for each in EXAMPLES
]


@pytest.mark.parametrize("example", MARKED, ids=lambda p: p.stem)
def test_example_runs(example: Path) -> None:
    done = run([str(example)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert len(example.read_text().splitlines()) <= 60
