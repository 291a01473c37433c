"""Run the tests that depend on torch and transformers with other versions of them.

    python .ci/matrix.py --torch 2.11.0 --transformers 5.23.0 --python python3.12 --venv FOLDER

makes a virtual environment (or goes on with the one that is there), runs ``TESTS`` in one process
and puts one row into benchmarks/results/compatibility.json, of which docs/compatibility.md is
made. Needs the standard library only. pip reads its settings as always: PIP_INDEX_URL and others
choose the build of torch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from benchmarks.compatibility import OUT, PAGE, page  # noqa: E402

TESTS = (
    "tests/unit/graph",
    "tests/unit/tracing/test_tracing_positions.py",
    "tests/unit/tracing/test_tracing_readers.py",
    "tests/unit/modules/test_experts.py",
    "tests/unit/modules/test_skipped.py",
    "tests/unit/checkpoint/test_hf_config.py",
    "tests/unit/checkpoint/test_load.py",
    "tests/unit/dynamo/test_dynamo_activation_budget.py",
    "tests/unit/dynamo/test_dynamo_report.py",
    "tests/families/test_families_capture.py",
    "tests/families/test_families_composite.py",
    "tests/families/test_families_narrow.py",
    "tests/passes/test_passes_annotate_sites.py",
    "tests/passes/test_passes_factorize.py",
    "tests/numeric/test_before_decisions.py",
)
"""What is run by default; only rows of this list are recorded."""
CODE = ("gacfx", "passes", "tests", "pyproject.toml")
"""What a row depends on, beside the versions."""
ASKED = frozenset({"torch", "transformers"})
LOOSER = (
    ASKED,
    ASKED | {"setuptools"},
    ASKED | {"setuptools", "tokenizers", "huggingface_hub", "safetensors"},
)
"""Which lines of constraints.txt are left out, fewest first: what pip can satisfy is taken."""
SECONDS = 1500
"""Tests that take longer are given up."""
_LONG = 300
"""Characters of an error."""
_VERSIONS = """
import json, platform
from importlib.metadata import version
names = ("torch", "transformers")
print(json.dumps({"python": platform.python_version(), **{each: version(each) for each in names}}))
"""


def main(given: Sequence[str] | None = None) -> int:
    """0 when every test passed."""
    parser = argparse.ArgumentParser(description="Do the tests pass with these versions?")
    parser.add_argument("--torch", required=True, metavar="VERSION")
    parser.add_argument("--transformers", required=True, metavar="VERSION")
    parser.add_argument("--python", default=sys.executable, help="makes the environment")
    parser.add_argument("--venv", type=Path, help="folder of the environment")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="others: not recorded")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(given)
    venv: Path = asked.venv or Path(tempfile.gettempdir()) / f"gacfx-torch-{asked.torch}"
    found = install(asked.python, venv, asked.torch, asked.transformers)
    commit = record.last_commit(*CODE)
    row = {**found, **run(venv, asked.tests, asked.seconds)}
    row |= {"date": datetime.now(UTC).date().isoformat(), "commit": commit}
    print(json.dumps(row, indent=1))
    if asked.tests == list(TESTS):
        keep(row, asked.out)
    return 0 if not row["failing"] else 1


def install(python: str, venv: Path, torch: str, transformers: str) -> dict[str, Any]:
    """The versions that the environment has in the end, and which constraints were left out.

    Raises:
        subprocess.CalledProcessError: pip does not find these versions, or they do not go together.
    """
    if not (venv / "bin" / "python").is_file():
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
    # torch first and alone: which build of it an index gives is not to depend on the rest.
    pip(venv, f"torch=={torch}")
    wanted = (f"torch=={torch}", f"transformers=={transformers}", "--editable", f"{ROOT}[dev]")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for left_out in LOOSER:
        kept = venv / "constraints.txt"
        kept.write_text("\n".join(loosened(lines, left_out)) + "\n", encoding="utf-8")
        try:
            pip(venv, "--constraint", str(kept), *wanted)
            break
        except subprocess.CalledProcessError:
            if left_out is LOOSER[-1]:
                raise
    told = subprocess.check_output([venv / "bin" / "python", "-c", _VERSIONS], text=True)
    versions: dict[str, Any] = json.loads(told)
    return {**versions, "loosened": sorted(left_out - ASKED)}


def pip(venv: Path, *words: str) -> None:
    """Install into an environment."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", *words]
    subprocess.run(command, check=True, cwd=venv)


def loosened(lines: Sequence[str], left_out: frozenset[str]) -> list[str]:
    """Lines of a file of constraints without those of some packages."""
    return [line for line in lines if line.partition("==")[0] not in left_out]


def run(venv: Path, tests: Sequence[str], seconds: int) -> dict[str, Any]:
    """What became of the tests: counts, and each failing one with its first line."""
    written = venv / "tests.xml"
    written.unlink(missing_ok=True)
    command = [str(venv / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, f"--junitxml={written}", *tests],
            cwd=ROOT,
            env=environment,
            timeout=seconds,
        )
        ended = f"pytest ended with {done.returncode} and told nothing"
    except subprocess.TimeoutExpired:
        ended = f"not done after {seconds} s"
    took = round(time.monotonic() - began)
    if written.is_file():
        return {**counted(written.read_text(encoding="utf-8")), "seconds": took}
    failing = [{"name": "the tests themselves", "error": ended}]
    return {"passed": 0, "failed": 1, "skipped": 0, "failing": failing, "seconds": took}


def counted(written: str) -> dict[str, Any]:
    """Counts and failing tests of a report of pytest in the JUnit format."""
    cases = list(ET.fromstring(written).iter("testcase"))
    failing: dict[str, str] = {}
    for case in cases:
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                message = (found.get("message") or "").strip() or (found.text or "").strip()
                failing.setdefault(_named(case), _line(message))
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failing) - skipped,
        "failed": len(failing),
        "skipped": skipped,
        "failing": [{"name": name, "error": error} for name, error in failing.items()],
    }


def _named(case: ET.Element) -> str:
    return "::".join(each for each in (case.get("classname"), case.get("name")) if each)


def _line(message: str) -> str:
    """The first line that says something, without where this checkout lies."""
    lines = message.replace(str(ROOT) + os.sep, "").splitlines()
    first = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return first if len(first) <= _LONG else f"{first[:_LONG]}..."


def keep(row: dict[str, Any], out: Path) -> None:
    """Put a row in place of the one of the same versions, and write the page anew."""
    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    same_list = before.get("tests") == list(TESTS)
    others = [each for each in before.get("rows", []) if same_list and key(each) != key(row)]
    results = {
        "command": "python .ci/matrix.py --torch VERSION --transformers VERSION --python PYTHON",
        "tests": list(TESTS),
        "rows": sorted([*others, row], key=key),
    }
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if out == OUT:
        PAGE.write_text(page(results), encoding="utf-8")


def key(row: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """What rows are told apart and ordered by: Python without its patch, torch, transformers."""
    numbers = [row[name].partition("+")[0].split(".") for name in ("torch", "transformers")]
    python = row["python"].split(".")[:2]
    return tuple(tuple(int(each) for each in part) for part in (python, *numbers))


if __name__ == "__main__":
    raise SystemExit(main())
