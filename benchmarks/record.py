"""Write a benchmark's results with everything needed to repeat it."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "numpy", "pulp", "onnxruntime", "openvino")
MOST_LOAD = 0.5
"""Processes at work for each core, the benchmark not yet among them; more is busy."""
LIMIT_S = 20.0
"""git that takes longer is given up."""


def write(name: str, results: dict[str, Any], out: Path | None = None) -> Path:
    """``results`` with command, versions, machine and date, as ``results/<name>.json``."""
    record = {
        "command": shlex.join(["python", "-m", module(name), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
        "versions": versions(),
        **results,
    }
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def module(name: str) -> str:
    """What ``python -m`` runs now; else the benchmark of this name, as where a test calls it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    found = "" if spec is None else str(spec.name).removesuffix(".__main__")
    return found if found.startswith("benchmarks.") else f"benchmarks.{name}"


def others() -> dict[str, Any]:
    """Whether other programs are at work; to be asked before the first measurement."""
    if not hasattr(os, "getloadavg"):
        return {"load": None, "busy": None}
    load = os.getloadavg()[0]
    return {"load": round(load, 1), "busy": load > MOST_LOAD * (os.cpu_count() or 1)}


def commit() -> tuple[str | None, bool | None]:
    """(commit of the checkout, whether it has changes); None where there is no git."""
    head = _git("rev-parse", "HEAD")
    return (None, None) if head is None else (head, bool(_git("status", "--porcelain", "-uno")))


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(RESULTS.parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def last_commit(*paths: str) -> str | None:
    """The last commit that changed any of these paths of the checkout; None where they have
    changes, or there is no git."""
    root = [f":/{path}" for path in paths]
    if _git("status", "--porcelain", "--", *root) != "":
        return None
    return _git("log", "-1", "--format=%H", "--", *root) or None


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
