"""The most memory that this process has had."""

import resource
from contextlib import suppress
from pathlib import Path


def peak_gib() -> float:
    """GiB, since the program began.

    ``ru_maxrss`` of a process that another one started is at least the most memory of that one: on
    Linux it outlives exec. The high-water mark of the status file does not.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
