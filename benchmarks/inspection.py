"""How long does ``gacfx inspect`` take from a configuration alone, and how much memory?

    python -m benchmarks.inspection

Each run is a fresh process, imports included; medians of wall-clock time, largest peak memory.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks import record

GOALS = {"llama-3-8b": (8.0, 700.0), "llama-3-70b": (20.0, 1500.0), "mixtral-8x7b": (30.0, 1500.0)}
"""Model -> (seconds, MiB) on two cores; those of Mixtral and the memory of 70B are our own."""
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One model."""

    model: str
    seconds: float
    """Median wall-clock time of a fresh process."""
    cpu_seconds: float
    """Median of user and system time: less moved by a busy machine."""
    peak_mib: float
    """Largest resident memory of any run."""
    sites: int
    goal_seconds: float
    goal_mib: float

    @property
    def reached(self) -> bool:
        """Both goals."""
        return self.seconds <= self.goal_seconds and self.peak_mib <= self.goal_mib


def once(model: str) -> tuple[float, float, float, int]:
    """(wall seconds, cpu seconds, peak MiB, sites) of one fresh process."""
    command = [sys.executable, "-m", "gacfx", "inspect", model, "--json"]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"inspect {model} failed with {process.returncode}")
    sites = len(json.loads(text)["rows"])
    return wall, used.ru_utime + used.ru_stime, peak_mib(used), sites


def peak_mib(used: resource.struct_rusage) -> float:
    """Peak resident memory; Linux counts in KiB, macOS in bytes."""
    return used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def measure(model: str) -> Row:
    """Median of ``REPEATS`` fresh processes."""
    runs = [once(model) for _ in range(REPEATS)]
    walls, cpus, peaks, sites = zip(*runs, strict=True)
    return Row(
        model=model,
        seconds=round(statistics.median(walls), 2),
        cpu_seconds=round(statistics.median(cpus), 2),
        peak_mib=round(max(peaks), 1),
        sites=sites[0],
        goal_seconds=GOALS[model][0],
        goal_mib=GOALS[model][1],
    )


def main() -> int:
    """0 when every goal is reached."""
    rows = [measure(model) for model in GOALS]
    for row in rows:
        verdict = "reached" if row.reached else "MISSED"
        print(
            f"{row.model:14} {row.seconds:6.1f} s (cpu {row.cpu_seconds:.1f})  "
            f"{row.peak_mib:6.0f} MiB  {row.sites} sites  "
            f"goal {row.goal_seconds:.0f} s, {row.goal_mib:.0f} MiB: {verdict}"
        )
    print(record.write("inspection", {"repeats": REPEATS, "rows": [asdict(r) for r in rows]}))
    return 0 if all(r.reached for r in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
