"""How long does ``gacfx inspect`` take from a configuration alone, and how much memory?

    python -m benchmarks.inspection

Each run is a fresh process, imports included; medians of time, largest peak memory. Goals are of
the processor's time, which a busy machine moves less than the clock's. The FLOPs are held against
torch's own counter, which watches one eager forward on the meta device.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import record

LARGE = (30.0, 1024.0)
GOALS = {
    "llama-3-8b": (8.0, 700.0),
    "llama-3-70b": (12.0, 1024.0),
    "mixtral-8x7b": LARGE,
    "qwen3-30b-a3b": LARGE,
    "qwen3-next-80b-a3b": LARGE,
    "gpt-oss-20b": LARGE,
    "deepseek-v3": LARGE,
    "jamba-mini": LARGE,
    "codestral-mamba-7b": LARGE,
    "zamba2-2.7b": LARGE,
    "gemma-3-27b": LARGE,
    "glm-4.5": LARGE,
}
"""Model -> (seconds of the processor, MiB)."""
APART = 0.001
"""Most that FLOPs may differ from torch's count, as a share."""
REPEATS = 3
TOKENS = 256


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
    flops: int
    """Of all sites, for one sequence of ``TOKENS``."""
    counted: int
    """The same by ``torch.utils.flop_counter``."""
    goal_seconds: float
    goal_mib: float

    @property
    def reached(self) -> bool:
        """Both goals, and the same FLOPs."""
        fast = self.cpu_seconds <= self.goal_seconds and self.peak_mib <= self.goal_mib
        return fast and abs(self.flops / self.counted - 1) <= APART


def once(model: str) -> tuple[float, float, float, int, int]:
    """(wall seconds, cpu seconds, peak MiB, sites, FLOPs) of one fresh process."""
    command = [sys.executable, "-m", "gacfx", "inspect", model, "--json", "--seq", str(TOKENS)]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"inspect {model} failed with {process.returncode}")
    seen = json.loads(text)
    cpu = used.ru_utime + used.ru_stime
    return wall, cpu, peak_mib(used), len(seen["rows"]), seen["flops"]


def counted(model: str) -> int:
    """FLOPs of one eager forward as torch counts them, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inspection", "--count", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def count(model: str) -> int:
    """As :func:`counted`, in this process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from gacfx.tracing.attention import FullSequences
    from gacfx.tracing.skeleton import read_config, skeleton

    made = skeleton(read_config(model))
    if hasattr(made.config, "num_experts_per_tok"):
        made.set_experts_implementation("batched_mm")  # torch knows no FLOPs of a grouped one
    full: Any = FullSequences
    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, full():
        made(input_ids=ids, use_cache=False)
    return int(counter.get_total_flops())


def peak_mib(used: resource.struct_rusage) -> float:
    """Peak resident memory; Linux counts in KiB, macOS in bytes."""
    return used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def measure(model: str) -> Row:
    """Median of ``REPEATS`` fresh processes."""
    runs = [once(model) for _ in range(REPEATS)]
    walls, cpus, peaks, sites, flops = zip(*runs, strict=True)
    return Row(
        model=model,
        seconds=round(statistics.median(walls), 2),
        cpu_seconds=round(statistics.median(cpus), 2),
        peak_mib=round(max(peaks), 1),
        sites=sites[0],
        flops=flops[0],
        counted=counted(model),
        goal_seconds=GOALS[model][0],
        goal_mib=GOALS[model][1],
    )


def main() -> int:
    """0 when every goal is reached."""
    others = record.others()
    rows = [measure(model) for model in GOALS]
    for row in rows:
        verdict = "reached" if row.reached else "MISSED"
        print(
            f"{row.model:18} {row.seconds:6.1f} s (cpu {row.cpu_seconds:.1f})  "
            f"{row.peak_mib:6.0f} MiB  {row.sites} sites  "
            f"FLOPs {row.flops / row.counted:.4f} of torch's count  "
            f"goal {row.goal_seconds:.0f} s, {row.goal_mib:.0f} MiB: {verdict}"
        )
    made = {**others, "repeats": REPEATS, "rows": [asdict(row) for row in rows]}
    print(record.write("inspection", made))
    return 0 if all(r.reached for r in rows) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--count"]:
        print(count(sys.argv[2]))
    else:
        raise SystemExit(main())
