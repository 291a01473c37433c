"""Which device this machine measures on, and what it is called."""

from contextlib import suppress
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


def default_device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_here(device: torch.device) -> bool:
    """Whether this machine has the device."""
    if device.type != "cuda":
        return device.type == "cpu"
    return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()


def name_of(device: torch.device) -> str:
    """``NVIDIA H200``; of a CPU its model, or ``CPU`` where the system does not tell."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    with suppress(OSError):  # no such file but on Linux
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"
