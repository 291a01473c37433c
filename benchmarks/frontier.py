"""How long do the plans for every budget at once take, and how much memory?

    python -m benchmarks.frontier

The problems are those of ``planning_problems``: real weight shapes, SYNTHETIC importances and
spectra. Every row is a process of its own, so that its peak memory is its own as well. Times are
medians on a finished problem. Afterwards random budgets are solved one by one: the table must hold
the same values, and the frontier must stay between value and bound.
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks import record
from benchmarks.inspection import peak_mib
from benchmarks.planning_measure import milliseconds
from benchmarks.planning_problems import LLAMA_8B, LLAMA_70B, Case, make
from gacfx.knapsack import Problem, solve
from gacfx.knapsack.frontier.plans import Frontier, frontier
from gacfx.knapsack.frontier.table import Table, every_budget

CASES = tuple(
    Case(model, window=window, dense=dense)
    for model, window in ((LLAMA_8B, True), (LLAMA_8B, False), (LLAMA_70B, False))
    for dense in (False, True)
)
GOALS_MS = {
    (Case(LLAMA_8B, window=False, dense=False).name, "every_budget"): 300.0,
    (Case(LLAMA_70B, window=False, dense=False).name, "every_budget"): 5000.0,
}
METHODS: dict[str, Callable[[Problem], Table | Frontier]] = {
    "frontier": frontier,
    "every_budget": every_budget,
}
RATIO = 0.2
SEED = 0
REPEATS = 20
SOLVED = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one problem."""

    case: str
    method: str
    candidates: int
    entries: int
    """Budgets of the table, or plans of the frontier."""
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
    """Median certified gap at those budgets, over the value; 0 for the table."""
    goal_ms: float | None

    @property
    def reached(self) -> bool:
        """The goal is reached, or there is none."""
        return self.goal_ms is None or self.cpu_ms <= self.goal_ms


def measure(case: Case, method: str) -> Row:
    """The row of one method in this process."""
    problem = make(case, RATIO, SEED)
    before = peak_mib(resource.getrusage(resource.RUSAGE_SELF))
    result = METHODS[method](problem)
    peak = peak_mib(resource.getrusage(resource.RUSAGE_SELF))
    wall, cpu = timed(METHODS[method], problem)
    differences, gaps = compare(problem, result)
    return Row(
        case=case.name,
        method=method,
        candidates=sum(len(group.costs) for group in problem.groups),
        entries=len(result.value),
        wall_ms=milliseconds(wall),
        cpu_ms=milliseconds(cpu),
        peak_mib=round(peak, 1),
        before_mib=round(before, 1),
        solved=len(differences),
        worst_difference=max(differences),
        median_gap=statistics.median(gaps),
        goal_ms=GOALS_MS.get((case.name, method)),
    )


def timed(
    run: Callable[[Problem], Table | Frontier], problem: Problem
) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of each repeat."""
    wall, cpu = [], []
    for _ in range(REPEATS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        run(problem)
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    return wall, cpu


def compare(problem: Problem, result: Table | Frontier) -> tuple[list[float], list[float]]:
    """(distance from the solver's value, certified gap) over the value, at random budgets."""
    least = int(result.least if isinstance(result, Table) else result.cost[0])
    rng = np.random.default_rng(SEED)
    differences, gaps = [], []
    for budget in rng.integers(least, problem.budget, SOLVED).tolist():
        best = solve(replace(problem, budget=budget))
        scale = abs(best.value)
        if isinstance(result, Table):
            value, gap = result.value_at(budget), 0.0
            right = math.isclose(value, best.value, rel_tol=1e-12)
        else:
            point = result.point_at(budget)
            value, gap = point.value, point.gap
            dust = result.rounding_bound + best.rounding_bound
            right = value <= best.value + dust and best.value <= point.bound
        if not right:
            raise SystemExit(f"{budget}: {value!r} does not agree with the solver's {best.value!r}")
        differences.append(abs(value - best.value) / scale)
        gaps.append(gap / scale)
    return differences, gaps


def in_a_process(number: int, method: str) -> Row:
    """The row as a fresh process on one thread measures it."""
    command = [sys.executable, "-m", "benchmarks.frontier", str(number), method]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return Row(**json.loads(done.stdout))


def main() -> int:
    """0 when every goal is reached; with a case and a method: print that row."""
    if len(sys.argv) == 3:
        print(json.dumps(asdict(measure(CASES[int(sys.argv[1])], sys.argv[2]))))
        return 0
    rows = []
    for number, case in enumerate(CASES):
        for method in ("frontier",) if case.dense else ("frontier", "every_budget"):
            rows.append(in_a_process(number, method))
            print(line(rows[-1]), flush=True)
    results = {
        "data": "real weight shapes, synthetic importances and spectra",
        "ratio": RATIO,
        "repeats": REPEATS,
        "rows": [asdict(row) for row in rows],
    }
    print("written to", record.write("frontier", results))
    return 0 if all(row.reached for row in rows) else 1


def line(row: Row) -> str:
    """One line of the table."""
    goal = "" if row.goal_ms is None else f"  goal {row.goal_ms:g} ms: "
    verdict = goal and goal + ("reached" if row.reached else "MISSED")
    return (
        f"{row.case:30}{row.method:14}{row.entries:>10,}  cpu {row.cpu_ms:8} ms"
        f"  peak {row.peak_mib:5.0f} MiB (before {row.before_mib:.0f})"
        f"  off {row.worst_difference:.1e}  gap {row.median_gap:.1e}{verdict}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
