"""What the machine says of itself, and its clocks while it works.

Settings of the card are only read, never changed.
"""

import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gacfx.hardware.measure.device import default_device, name_of

LIMIT_S = 20.0
"""A command that takes longer is given up."""
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
        "name": name_of(default_device()),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "compute_capability": [properties.major, properties.minor],
            "sms": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": properties.L2_cache_size // 2**20,
            "driver": _smi("driver_version"),
            "matmul_precision": torch.get_float32_matmul_precision(),
        }
    return found


def clocks(work: Callable[[], object]) -> dict[str, float | str | None]:
    """Clocks, power, temperature and reasons to hold back, as nvidia-smi says them under load.

    Args:
        work: runs again and again meanwhile: an idle card is held back by nothing.
    """
    fields = ",".join(QUERY.values())
    line = _smi(fields, work) or _smi(fields.replace("event_reasons", "throttle_reasons"), work)
    if line is None:
        return {}
    values = [value.strip() for value in line.split(",")]
    return {name: _number(value) for name, value in zip(QUERY, values, strict=True)}


def _smi(fields: str, work: Callable[[], object] | None = None) -> str | None:
    form = "--format=csv,noheader,nounits"
    return _run("nvidia-smi", f"--query-gpu={fields}", form, "-i", "0", work=work)


def _run(*command: str, work: Callable[[], object] | None = None) -> str | None:
    """What a command prints; None if it is not there or fails. ``work`` runs while it does."""
    pipe, end = subprocess.PIPE, time.monotonic() + LIMIT_S
    try:
        with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as child:
            while work is not None and child.poll() is None and time.monotonic() < end:
                work()
            try:
                text, _ = child.communicate(timeout=max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.kill()
                return None
    except OSError:
        return None
    return text.strip() if child.returncode == 0 else None


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
