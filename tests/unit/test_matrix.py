"""The matrix of versions: its page is that of the results, and it covers what the project says."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compatibility import OUT, PAGE, page

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("matrix", ROOT / ".ci" / "matrix.py")
assert spec is not None and spec.loader is not None
matrix = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matrix)

REPORT = """
<testsuites><testsuite>
<testcase classname="tests.one.test_a" name="test_fine"/>
<testcase classname="tests.one.test_a" name="test_left"><skipped message="no GPU"/></testcase>
<testcase classname="tests.one.test_a" name="test_both">
  <failure message="{root}/gacfx/x.py: no such&#10;second line">text</failure>
  <error message="later">text</error></testcase>
<testcase classname="" name="tests.one.test_b"><error>ImportError: x</error></testcase>
<testcase classname="tests.one.test_a" name="test_raised">
  <failure message="Failed: backend raised:&#10;RuntimeError: why&#10;more"/></testcase>
</testsuite></testsuites>
"""


def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8"))
    return found


def row(torch: str, failing: int = 0) -> dict[str, Any]:
    names = [{"name": f"test_{at}", "error": "no"} for at in range(failing)]
    counts = {"passed": 2, "failed": failing, "skipped": 0, "failing": names, "seconds": 1}
    versions = {"python": "3.11.7", "torch": torch, "transformers": "5.23.0"}
    return {**versions, **counts, "date": "2026-01-01"}


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(results())


def test_rows_are_of_the_tests_that_are_run_now() -> None:
    assert results()["tests"] == list(matrix.TESTS)
    assert [each for each in matrix.TESTS if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_the_oldest_that_is_promised_and_the_one_that_is_pinned_passed(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    promised = "\n".join(project["dependencies"])
    oldest = re.findall(rf"^{package}>=([\d.]+)", promised, re.MULTILINE)[0]
    pinned = re.findall(rf"^{package}==([\d.]+)", pins, re.MULTILINE)[0]
    passed = [each[package].partition("+")[0] for each in results()["rows"] if not each["failing"]]
    assert any(each.startswith(f"{oldest}.") for each in passed)
    assert pinned in passed


def test_a_report_becomes_counts_and_first_lines() -> None:
    found = matrix.counted(REPORT.format(root=ROOT))
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 3, 1)
    assert found["failing"] == [
        {"name": "tests.one.test_a::test_both", "error": "gacfx/x.py: no such"},
        {"name": "tests.one.test_b", "error": "ImportError: x"},
        {
            "name": "tests.one.test_a::test_raised",
            "error": "Failed: backend raised: RuntimeError: why",
        },
    ]


def test_a_row_replaces_that_of_the_same_versions(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    for each in (row("2.13.0+cpu"), row("2.9.1"), row("2.13.0", failing=1)):
        matrix.keep(each, out)
    rows = json.loads(out.read_text())["rows"]
    assert [(each["torch"], each["failed"]) for each in rows] == [("2.9.1", 0), ("2.13.0", 1)]


def test_what_fails_stands_on_the_page_with_where() -> None:
    text = page({"command": "do", "tests": ["tests/a"], "rows": [row("2.9.1"), row("2.11.0", 1)]})
    (line,) = [each for each in text.splitlines() if "test_0" in each]
    assert "torch 2.11.0" in line and "2.9.1" not in line
    assert "What fails" not in page({"command": "do", "tests": [], "rows": [row("2.9.1")]})


def test_constraints_are_loosened_by_name() -> None:
    lines = ["# a", "torch==2.13.0", "torchao==0.18.0"]
    assert matrix.loosened(lines, frozenset({"torch"})) == ["# a", "torchao==0.18.0"]


def test_tests_that_hang_are_a_row(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    found = matrix.run(tmp_path, ["tests"], 1)
    assert found["failing"] == [{"name": "the tests themselves", "error": "not done after 1 s"}]
