"""How long does a proven plan take under a budget of parameters and one further limit?

    python -m benchmarks.two_budgets

Weight shapes are those of Llama-3-8B and Llama-3-70B. Importances, singular spectra and latencies
are SYNTHETIC (seeded), so nothing here says anything about quality or about a real GPU. The limit
is either latency, a staircase of whole nanoseconds per weight shape, or a KV cache, the ranks of
all key and value projections. It is set just below what the plan for the budget alone takes. Every
case runs in a fresh process. Times are those of ``solve_two_budgets`` on a finished problem, each
problem timed twice: medians and maxima over all 24 timings of a case.
"""

import math
import multiprocessing
import resource
import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import planning_problems, record
from benchmarks.inspection import peak_mib
from benchmarks.planning_measure import milliseconds
from benchmarks.planning_problems import LLAMA_8B, LLAMA_70B, Model
from gacfx.knapsack import Problem, Solution, check
from gacfx.knapsack.limits import Limit
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.two_budgets.solve import solve_two_budgets

RATIOS = (0.1, 0.2, 0.3)
SEEDS = range(4)
REPEATS = 2
HURRY_SECONDS = 0.05
HURRIED_GAP = 1e-6
TOKENS = 1024
TILE = 64
FLOPS_PER_NS = 600_000  # near what a large GPU does in bfloat16
LAUNCH_NS = 2_000
KEYS_AND_VALUES = 4096, 1024
UNALIGNED = 1.12  # how much longer a rank takes that is no multiple of 16


@dataclass(frozen=True, slots=True)
class Case:
    """One family of problems."""

    base: planning_problems.Case
    goal_seconds: float | None
    """None: it is measured, no more."""
    limit: Literal["latency", "KV"] = "latency"
    keep: float = 0.98
    """Share of the limit's range, from its least to what the budget's plan takes, that may be used;
    close to 1, since the two follow each other: much below, the limit alone decides."""
    linear: bool = False
    """Value is parameters times importance, as in the paper, not energy."""

    @property
    def name(self) -> str:
        return f"{self.base.name}{', linear' if self.linear else ''}, {self.limit}"


def _base(model: Model, window: bool, dense: bool) -> planning_problems.Case:
    return planning_problems.Case(model, window=window, dense=dense)


CASES = (
    Case(_base(LLAMA_8B, True, False), 0.3),
    Case(_base(LLAMA_8B, True, False), 2.0, linear=True),
    Case(_base(LLAMA_8B, True, True), 0.3),
    Case(_base(LLAMA_8B, False, False), 0.3),
    Case(_base(LLAMA_8B, False, True), 0.3, keep=0.995),
    Case(_base(LLAMA_70B, False, False), None),
    Case(_base(LLAMA_70B, False, True), None, keep=0.995),
    Case(_base(LLAMA_8B, False, False), 0.8, limit="KV", keep=0.7),
    Case(_base(LLAMA_8B, False, True), 0.8, limit="KV", keep=0.7),
)


def make(case: Case, ratio: float, seed: int) -> Problem:
    """One problem of a case, with its limit."""
    problem = planning_problems.make(case.base, ratio, seed)
    shapes = shapes_of(case.base.model)
    if case.linear:
        importance = np.random.default_rng(seed).lognormal(0.0, 0.8, len(shapes))
        groups = [
            replace(group, values=weight * (group.costs - rows * columns))
            for group, weight, (rows, columns) in zip(
                problem.groups, importance, shapes, strict=True
            )
        ]
        problem = replace(problem, groups=tuple(groups))
    costs = limit_costs(case, problem)
    used = sum(
        int(costs[group.name][index])
        for group, index in zip(problem.groups, core.solve(problem).choice, strict=True)
        if group.name in costs
    )
    least = sum(int(array.min()) for array in costs.values())
    most = least + int(case.keep * (used - least))
    return replace(problem, limits=(Limit(case.limit, most, costs),))


def limit_costs(case: Case, problem: Problem) -> dict[str, NDArray[np.int64]]:
    """Group -> what its candidates cost under the limit; groups of equal costs share an array."""
    shared: dict[tuple[int, int, int], NDArray[np.int64]] = {}
    found = {}
    for group, (rows, columns) in zip(problem.groups, shapes_of(case.base.model), strict=True):
        if case.limit == "KV" and (rows, columns) != KEYS_AND_VALUES:
            continue
        key = rows, columns, id(group.costs)
        if key not in shared:
            ranks = group.costs // (rows + columns)
            dense = group.costs == rows * columns
            amount = (
                np.where(dense, rows, ranks)
                if case.limit == "KV"
                else np.where(dense, dense_ns(rows, columns), factored_ns(rows, columns, ranks))
            )
            shared[key] = np.rint(amount).astype(np.int64)
            shared[key].setflags(write=False)
        found[group.name] = shared[key]
    return found


def shapes_of(model: Model) -> list[tuple[int, int]]:
    """(rows, columns) of every group."""
    return [shape for shape, count in model.kinds().items() for _ in range(count)]


def factored_ns(rows: int, columns: int, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Two matrix products, in steps of a tile of the rank, slower where a rank is not aligned."""
    flops = 2 * TOKENS * (rows + columns) * (-(-ranks // TILE) * TILE)
    slower = np.where(ranks % 16 == 0, 1.0, UNALIGNED)
    latency: NDArray[np.float64] = flops * slower / rate(rows, columns) + 2 * LAUNCH_NS
    return latency


def dense_ns(rows: int, columns: int) -> float:
    """One matrix product."""
    return 2 * TOKENS * rows * columns / rate(rows, columns) + LAUNCH_NS


def rate(rows: int, columns: int) -> float:
    """Small weights do not fill the machine."""
    share = 1.0 if rows != columns else 0.8
    return FLOPS_PER_NS * (0.6 if min(rows, columns) < 4096 else share)


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of a case; times in milliseconds of wall clock, but for ``cpu_ms``."""

    case: str
    groups: int
    candidates: int
    runs: int
    proven: int
    both_bind: int
    """Runs in which neither of the two has the price 0."""
    timings: int
    median_ms: float
    max_ms: float
    cpu_ms: float
    """Median processor time: less moved by a busy machine"""
    max_cpu_ms: float
    check_ms: float
    """Median time of the exact checker."""
    hurried_share: float
    """Runs whose gap is proven to be at most ``HURRIED_GAP`` of the value after 50 ms"""
    median_hurried_gap: float
    """Proven gap after 50 ms, over the value."""
    worst_hurried_gap: float
    worst_hurried_deficit: float
    """Most by which the plan after 50 ms is worth less than the proven one, over the value."""
    peak_mib: float
    goal_ms: float | None
    reached: bool
    """All proven, the median processor time within the goal, if there is one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One problem, solved and checked."""

    solution: Solution
    hurried: Solution
    walls: tuple[float, ...]
    cpus: tuple[float, ...]
    check_seconds: float

    @property
    def hurried_gap(self) -> float:
        return self.hurried.gap / abs(self.hurried.value)

    @property
    def hurried_deficit(self) -> float:
        return (self.solution.value - self.hurried.value) / abs(self.solution.value)


def run(case: Case) -> Row:
    """Solve and check every problem of a case."""
    runs = [solve(make(case, ratio, seed)) for seed in SEEDS for ratio in RATIOS]
    solutions = [each.solution for each in runs]
    walls = [seconds for each in runs for seconds in each.walls]
    cpus = [seconds for each in runs for seconds in each.cpus]
    gaps = [each.hurried_gap for each in runs]
    proven = sum(found.status == "optimal" for found in solutions)
    cpu_ms, goal_ms = milliseconds(cpus), case.goal_seconds and 1e3 * case.goal_seconds
    return Row(
        case=case.name,
        groups=int(solutions[0].stats["groups"]),
        candidates=int(solutions[0].stats["candidates"]),
        runs=len(runs),
        proven=proven,
        both_bind=sum(found.multiplier > 0 < found.limit_multipliers[0] for found in solutions),
        timings=len(walls),
        median_ms=milliseconds(walls),
        max_ms=round(1e3 * max(walls), 2),
        cpu_ms=cpu_ms,
        max_cpu_ms=round(1e3 * max(cpus), 2),
        check_ms=milliseconds([each.check_seconds for each in runs]),
        hurried_share=sum(gap <= HURRIED_GAP for gap in gaps) / len(gaps),
        median_hurried_gap=statistics.median(gaps),
        worst_hurried_gap=max(gaps),
        worst_hurried_deficit=max(each.hurried_deficit for each in runs),
        peak_mib=round(peak_mib(resource.getrusage(resource.RUSAGE_SELF)), 1),
        goal_ms=goal_ms,
        reached=proven == len(runs) and (goal_ms is None or cpu_ms <= goal_ms),
    )


def solve(problem: Problem) -> Run:
    """Solve a problem a few times, once in a hurry, and check both solutions."""
    walls, cpus = [], []
    for _ in range(REPEATS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        solution = solve_two_budgets(problem)
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - begin_cpu)
    hurried = solve_two_budgets(problem, time_limit=HURRY_SECONDS)
    begin = time.perf_counter()
    check(problem, solution).require()
    check_seconds = time.perf_counter() - begin
    check(problem, hurried).require()
    return Run(solution, hurried, tuple(walls), tuple(cpus), check_seconds)


def line(row: Row) -> str:
    """One line of the table."""
    proven = f"{row.proven}/{row.runs}"
    times = (row.median_ms, row.max_ms, row.cpu_ms, row.max_cpu_ms, row.goal_ms or math.nan)
    columns = "".join(f"{milliseconds:>10.1f}" for milliseconds in times)
    share = f"{row.hurried_share:>9.0%}"
    gaps = f"{row.median_hurried_gap:>10.1e}{row.worst_hurried_gap:>10.1e}"
    verdict = "reached" if row.reached else "MISSED"
    return (
        f"{row.case:42}{row.candidates:>9,}{proven:>7}{row.both_bind:>6}{columns}{share}{gaps}"
        f"{row.worst_hurried_deficit:>10.1e}{row.peak_mib:>6.0f}  {verdict}"
    )


def main() -> None:
    """Run all cases, print a table, write the results."""
    heads = ("median ms", "max ms", "cpu ms", "max cpu", "goal ms")
    times = "".join(f"{head:>10}" for head in heads)
    gaps = f"{'<= 1e-6':>9}{'gap 50 ms':>10}{'worst':>10}{'deficit':>10}"
    print(f"{'case':42}{'candid.':>9}{'proven':>7}{'both':>6}{times}{gaps}{'MiB':>6}")
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(run, CASES):
            rows.append(row)
            print(line(row), flush=True)
    results = {
        "data": "real weight shapes, synthetic importances, spectra and latencies",
        "ratios": RATIOS,
        "seeds": len(SEEDS),
        "timings_per_problem": REPEATS,
        "hurried_seconds": HURRY_SECONDS,
        "hurried_gap": HURRIED_GAP,
        "rows": [asdict(row) for row in rows],
    }
    print("written to", record.write("two_budgets", results))


if __name__ == "__main__":
    main()
