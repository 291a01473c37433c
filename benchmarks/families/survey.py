"""The survey: every family in a process of its own, with a limit of time and of memory.

Time is that of the processor, as other programs may be at work.
"""

import multiprocessing as mp
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.families.models import Family
from benchmarks.families.road import Step, travel

SECONDS = 90
"""Of the processor that a process may take."""
PATIENCE = 10.0
"""Times as long on the clock before it is given up."""
LATE = "it takes more than its time"
GIB = 6
"""Of memory that a process may write to."""
_PRELOADED = ["benchmarks.families.survey", "transformers", "gacfx.api", "torch._dynamo"]


def server() -> Any:
    """Where processes come from: they begin with everything imported."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def survey(context: Any, family: Family, seconds: int = SECONDS) -> dict[str, Any]:
    """What became of one family: a row of the results."""
    folder = Path(tempfile.mkdtemp(prefix="families-"))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_travel, args=(family, folder, theirs, seconds))
    process.start()
    theirs.close()
    try:
        steps = hear(ours, process, PATIENCE * seconds)
    finally:
        process.kill()
        process.join()
        shutil.rmtree(folder, ignore_errors=True)
    return row_of(family, steps)


def row_of(family: Family, steps: Sequence[Step]) -> dict[str, Any]:
    """A row of the results; what a step has nothing of is left out."""
    return {
        "name": family.name,
        "class": family.cls,
        "causal": family.causal,
        "seconds": round(sum(step.seconds for step in steps), 1),
        "steps": [{k: v for k, v in asdict(step).items() if v not in ("", {})} for step in steps],
    }


def hear(ours: Connection, process: Any, seconds: float) -> list[Step]:
    """The steps that a process tells of, and the one that it was at when it ended too early."""
    steps: list[Step] = []
    at, end = "build", time.perf_counter() + seconds
    while True:
        if not ours.poll(max(end - time.perf_counter(), 0.0)):
            why = LATE
            break
        try:
            told = ours.recv()
        except EOFError:
            process.join()
            if process.exitcode == 0:
                return steps
            late = process.exitcode == -signal.SIGXCPU
            why = LATE if late else f"its process died with {process.exitcode}"
            break
        if isinstance(told, str):
            at = told
        else:
            steps.append(told)
    return [*steps, Step(at, "fault", 0.0, f"Ended: {why}")]


def _travel(family: Family, folder: Path, tell: Connection, seconds: int) -> None:
    """In the process: limits, silence, and the road."""
    import torch
    import transformers

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (GIB * 2**30, GIB * 2**30))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    with Path("/dev/null").open("w") as nothing:
        sys.stdout = sys.stderr = nothing
        travel(family, folder, tell.send)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
