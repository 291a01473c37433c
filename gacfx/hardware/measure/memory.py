"""Memory of a device: what is free, whether an error means too little of it, giving it back."""

import gc
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""(limit, use) of a container, of cgroups version 2 and 1, below ``CGROUP_ROOT``."""
CPU_WORDS = ("can't allocate memory", "not enough memory", "cannot allocate memory")
"""What torch says on a CPU, where it has no error of its own for it."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``; None where the machine does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(kept)
    if device.type != "cpu":
        return None
    left = (_left_on_the_machine(), *(_left_in_a_container(*names) for names in CGROUPS))
    return min((number for number in left if number is not None), default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed because memory was too little, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in CPU_WORDS)


def release(device: torch.device) -> None:
    """Give back what nothing holds any more; on a CPU that has happened by itself."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _left_on_the_machine() -> int | None:
    for line in (_text(MEMINFO) or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _left_in_a_container(limit_name: str, use_name: str) -> int | None:
    limit, use = _text(CGROUP_ROOT / limit_name), _text(CGROUP_ROOT / use_name)
    if limit is None or use is None or not (limit.strip().isdigit() and use.strip().isdigit()):
        return None  # "max" stands for no limit
    return max(int(limit) - int(use), 0)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None  # another system, or no container
