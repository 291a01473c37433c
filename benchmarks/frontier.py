"""How long do the plans for every budget at once take, and how much memory?

    python -m benchmarks.frontier

The problems are those of ``planning_problems``: real weight shapes, SYNTHETIC importances and
spectra. Every row is a process of its own, so that its peak memory is its own as well. Times are
medians on a finished problem. Afterwards random budgets are solved one by one: the frontier must
stay between value and bound.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks import record
from benchmarks.inspection import peak_mib
from benchmarks.planning_measure import milliseconds
from benchmarks.planning_problems import LLAMA_8B, LLAMA_70B, Case, make
from gacfx.knapsack import Problem, solve
from gacfx.knapsack.frontier.plans import Frontier, frontier

CASES = tuple(
    Case(model, window=window, dense=dense)
    for model, window in ((LLAMA_8B, True), (LLAMA_8B, False), (LLAMA_70B, False))
    for dense in (False, True)
)
RATIO = 0.2
SEED = 0
REPEATS = 20
SOLVED = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One problem."""

    case: str
    candidates: int
    plans: int
    """Of the frontier."""
    wall_ms: float
    cpu_ms: float
    """Median processor time: less moved by a busy machine."""
    peak_mib: float
    """Of the whole process after one run, with the interpreter, numpy and the problem."""
    before_mib: float
    """Peak before that run."""
    solved: int
    """Budgets at which the result was compared with the solver's."""
    worst_difference: float
    """Largest distance of the value from the solver's, over the value."""
    median_gap: float
    """Median certified gap at those budgets, over the value."""


def measure(case: Case) -> Row:
    """The row of one case in this process."""
    problem = make(case, RATIO, SEED)
    before = peak_mib(resource.getrusage(resource.RUSAGE_SELF))
    result = frontier(problem)
    peak = peak_mib(resource.getrusage(resource.RUSAGE_SELF))
    wall, cpu = timed(problem)
    differences, gaps = compare(problem, result)
    return Row(
        case=case.name,
        candidates=sum(len(group.costs) for group in problem.groups),
        plans=len(result.value),
        wall_ms=milliseconds(wall),
        cpu_ms=milliseconds(cpu),
        peak_mib=round(peak, 1),
        before_mib=round(before, 1),
        solved=len(differences),
        worst_difference=max(differences),
        median_gap=statistics.median(gaps),
    )


def timed(problem: Problem) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of each repeat."""
    wall, cpu = [], []
    for _ in range(REPEATS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        frontier(problem)
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    return wall, cpu


def compare(problem: Problem, result: Frontier) -> tuple[list[float], list[float]]:
    """(distance from the solver's value, certified gap) over the value, at random budgets."""
    least = int(result.cost[0])
    rng = np.random.default_rng(SEED)
    differences, gaps = [], []
    for budget in rng.integers(least, problem.budget, SOLVED).tolist():
        best = solve(replace(problem, budget=budget))
        scale = abs(best.value)
        point = result.point_at(budget)
        dust = result.rounding_bound + best.rounding_bound
        if not point.value - dust <= best.value <= point.bound:
            raise SystemExit(f"{budget}: {point!r} does not agree with the solver's {best.value!r}")
        differences.append(abs(point.value - best.value) / scale)
        gaps.append(point.gap / scale)
    return differences, gaps


def in_a_process(number: int) -> Row:
    """The row as a fresh process on one thread measures it."""
    command = [sys.executable, "-m", "benchmarks.frontier", str(number)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return Row(**json.loads(done.stdout))


def main() -> None:
    """Print and write all rows; with the number of a case: print that row."""
    if len(sys.argv) == 2:
        print(json.dumps(asdict(measure(CASES[int(sys.argv[1])]))))
        return
    rows = []
    for number in range(len(CASES)):
        rows.append(in_a_process(number))
        print(line(rows[-1]), flush=True)
    results = {
        "data": "real weight shapes, synthetic importances and spectra",
        "ratio": RATIO,
        "repeats": REPEATS,
        "rows": [asdict(row) for row in rows],
    }
    print("written to", record.write("frontier", results))


def line(row: Row) -> str:
    """One line of the table."""
    return (
        f"{row.case:30}{row.plans:>10,}  cpu {row.cpu_ms:8} ms"
        f"  peak {row.peak_mib:5.0f} MiB (before {row.before_mib:.0f})"
        f"  off {row.worst_difference:.1e}  gap {row.median_gap:.1e}"
    )


if __name__ == "__main__":
    main()
