"""What the machine says of itself, and its clocks while it works.

Settings of the card are only read, never changed.
"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
QUERY = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "max_sm_mhz": "clocks.max.sm",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
    "throttle": "clocks_event_reasons.active",
}
"""Our name -> field of nvidia-smi; ``throttle`` is a bit mask, 0 or 1 where nothing slows it."""


def describe() -> dict[str, Any]:
    """Device, driver and versions; every value is JSON."""
    packages = {name: _version(name) for name in ("torch", "transformers", "numpy", "triton")}
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cpu": platform.machine(),
        "packages": {name: number for name, number in packages.items() if number},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "cublas": _version("nvidia-cublas") or _version("nvidia-cublas-cu12"),
        "name": "cpu",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "compute_capability": [properties.major, properties.minor],
            "sms": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": properties.L2_cache_size // 2**20,
            "driver": _smi("driver_version"),
            "matmul_precision": torch.get_float32_matmul_precision(),
        }
    return found


def clocks() -> dict[str, float | str | None]:
    """Clocks, power, temperature and reasons to hold back, as nvidia-smi says them."""
    line = _smi(",".join(QUERY.values()))
    if line is None:
        return {}
    values = [value.strip() for value in line.split(",")]
    return {name: _number(value) for name, value in zip(QUERY, values, strict=True)}


def commit() -> tuple[str | None, bool | None]:
    """(commit of the checkout, whether it has changes); None where there is no git."""
    head = _run("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if head is None:
        return None, None
    return head, bool(_run("git", "-C", str(ROOT), "status", "--porcelain", "-uno"))


def _smi(fields: str) -> str | None:
    return _run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", "0")


def _run(*command: str) -> str | None:
    """What a command prints; None if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _number(text: str) -> float | str | None:
    try:
        return float(text)
    except ValueError:
        return None if text.startswith("[") else text
