"""One row of the planning benchmark: solve, check and compare every problem of a case."""

import math
import resource
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec

import numpy as np
import pulp

from benchmarks.inspection import peak_mib
from benchmarks.planning_problems import Case, Classic, make, make_classic
from gacfx.knapsack import Problem, Solution, check, solve
from gacfx.knapsack.ilp import program
from gacfx.knapsack.ilp.table import tabulate

RATIOS = (0.1, 0.2, 0.3, 0.4)
CHECKED = 400_000  # candidates up to which the exact checker runs as well
RIVALS = ("cbc", "highs")
RIVAL_SECONDS = 60.0
_DUST = 1e-12  # of the value; rivals work in float64


@dataclass(frozen=True, slots=True)
class Goal:
    """What the solver is meant to reach."""

    median_ms: float
    max_ms: float | None = None
    peak_mib: float | None = None
    gap: float | None = None
    """Relative; None: every plan proven"""
    times: float | None = None
    """Rivals are to be this many times slower, and their plans worth no more"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: a case, its goal, and how often."""

    case: Case | Classic
    goal: Goal | None
    seeds: int = 5
    repeats: int = 5
    rivals: int = 0
    """Problems that the rivals solve as well"""

    def problems(self) -> list[tuple[float, int]]:
        """(ratio, seed) of each; classical problems have no ratio."""
        ratios = RATIOS if isinstance(self.case, Case) else (0.0,)
        return [(ratio, seed) for seed in range(self.seeds) for ratio in ratios]

    def make(self, ratio: float, seed: int) -> Problem:
        if isinstance(self.case, Case):
            return make(self.case, ratio, seed)
        return make_classic(self.case, seed)


@dataclass(frozen=True, slots=True)
class Rival:
    """Another solver on some of the problems."""

    runs: int
    no_plan: int
    """Runs that brought no plan in time; they count with the time they took."""
    median_ms: float
    times_slower: float
    """Median over the runs, wall clock by wall clock."""
    worst_deficit: float
    """Largest amount by which its plan is worth less, over the value."""
    least_deficit: float
    """Negative: it found a plan worth more."""


@dataclass(frozen=True, slots=True)
class Row:
    """All problems of a case; medians over every time that one of them was solved."""

    case: str
    groups: int
    candidates: int
    problems: int
    proven: int
    timings: int
    cpu_ms: float
    """Processor time."""
    cpu_max_ms: float
    """Median of the slowest problem."""
    wall_ms: float
    wall_max_ms: float
    worst_gap: float
    """Largest gap that ``solve`` claims, over the value; what rounding can hide is part of it."""
    check_ms: float | None
    """Median time of the exact checker; None where it did not run."""
    certified_gap: float | None
    """Largest gap that the checker certifies without trusting the search, over the value."""
    before_mib: float
    peak_mib: float
    goal: dict[str, float | None] | None
    rivals: dict[str, dict[str, float]]
    misses: list[str] = field(default_factory=list)
    """What of the goal was not reached."""


@dataclass(frozen=True, slots=True)
class Run:
    """One problem, solved a few times."""

    walls: list[float]
    cpus: list[float]
    solution: Solution

    @property
    def wall(self) -> float:
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpus)

    @property
    def gap(self) -> float:
        return self.solution.gap / (abs(self.solution.value) or 1.0)


def measure(plan: Plan) -> Row:
    """Solve, check and compare every problem of a case, in this process."""
    runs: list[Run] = []
    checks: list[tuple[float, float]] = []
    rivals: dict[str, list[tuple[float, float | None]]] = {}
    before = peak = 0.0
    for ratio, seed in plan.problems():
        problem = plan.make(ratio, seed)
        if not runs:
            before = peak_mib(resource.getrusage(resource.RUSAGE_SELF))
            solve(problem)
            peak = peak_mib(resource.getrusage(resource.RUSAGE_SELF))
        run = timed(problem, plan.repeats)
        runs.append(run)
        if run.solution.stats["candidates"] <= CHECKED:
            checks.append(checked(problem, run.solution))
    # The rivals come last: they leave much behind in memory.
    for run, (ratio, seed) in zip(runs[: plan.rivals], plan.problems(), strict=False):
        for name in RIVALS:
            if name == "cbc" or find_spec("highspy"):
                found = compare(name, plan.make(ratio, seed), run)
                rivals.setdefault(name, []).append(found)
    cpus = [taken for run in runs for taken in run.cpus]
    walls = [taken for run in runs for taken in run.walls]
    stats = runs[-1].solution.stats
    proven = sum(run.solution.status == "optimal" for run in runs)
    row = Row(
        case=plan.case.name,
        groups=int(stats["groups"]),
        candidates=int(stats["candidates"]),
        problems=len(runs),
        proven=proven,
        timings=len(cpus),
        cpu_ms=milliseconds(cpus),
        cpu_max_ms=milliseconds([max(run.cpu for run in runs)]),
        wall_ms=milliseconds(walls),
        wall_max_ms=milliseconds([max(run.wall for run in runs)]),
        worst_gap=max(run.gap for run in runs),
        check_ms=milliseconds([seconds for seconds, _ in checks]) if checks else None,
        certified_gap=max(gap for _, gap in checks) if checks else None,
        before_mib=round(before, 1),
        peak_mib=round(peak, 1),
        goal=asdict(plan.goal) if plan.goal else None,
        rivals={name: asdict(summary(found, runs)) for name, found in rivals.items()},
    )
    return replace(row, misses=misses(plan.goal, row)) if plan.goal else row


def misses(goal: Goal, row: Row) -> list[str]:
    """What of ``goal`` was not reached, in words."""
    checks = [
        (row.cpu_ms, goal.median_ms, "median > {:g} ms"),
        (row.cpu_max_ms, goal.max_ms, "max > {:g} ms"),
        (row.peak_mib, goal.peak_mib, "memory > {:g} MiB"),
        (row.worst_gap, goal.gap, "gap > {:g}"),
    ]
    missed = [words.format(most) for found, most, words in checks if most and found > most]
    if goal.gap is None and row.proven < row.problems:
        missed.append(f"{row.problems - row.proven} not proven")
    for name, rival in row.rivals.items():
        if goal.times and rival["times_slower"] < goal.times:
            missed.append(f"{name} < {goal.times:g} times slower")
        if rival["least_deficit"] < -_DUST:
            missed.append(f"{name} found a better plan")
    return missed


def timed(problem: Problem, repeats: int) -> Run:
    """Wall and processor times of a few runs, and the solution, which is always the same."""
    walls, cpus = [], []
    for _ in range(repeats):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        solution = solve(problem)
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - begin_cpu)
    return Run(walls, cpus, solution)


def checked(problem: Problem, solution: Solution) -> tuple[float, float]:
    """(seconds of the exact checker, certified gap over the value); raises if there is a fault."""
    begin = time.perf_counter()
    certificate = check(problem, solution)
    seconds = time.perf_counter() - begin
    certificate.require()
    return seconds, float(certificate.certified_gap) / (abs(solution.value) or 1.0)


def compare(name: str, problem: Problem, run: Run) -> tuple[float, float | None]:
    """(seconds of a rival, how much less its plan is worth over the value, None: no legal plan).

    It gets the fair program of ``solve_ilp``, and the options that were fastest for it: no gap, its
    own tolerances (tighter ones made both slower, HiGHS by more than ten times), one thread.
    """
    begin = time.perf_counter()
    table = tabulate(problem)
    model = program.build(table, np.arange(len(table.value)), program.fair_goal(table)[0])
    options = {"msg": False, "timeLimit": RIVAL_SECONDS, "gapRel": 0.0}
    solver = pulp.HiGHS(threads=1, **options) if name == "highs" else pulp.PULP_CBC_CMD(**options)
    model.solve(solver)
    seconds = time.perf_counter() - begin
    taken = {variable.name: variable.value() or 0.0 for variable in model.variables()}
    ones = [int(key[1:]) for key, number in taken.items() if key[0] == "x" and number > 0.5]
    position = np.sort(np.array(ones, np.int64))
    is_plan = np.array_equal(table.owner[position], np.arange(table.groups))
    if not is_plan or (table.over(position) > 0).any():
        return seconds, None
    choice = table.index[position]
    picked = zip(problem.groups, choice.tolist(), strict=True)
    value = math.fsum(float(group.values[index]) for group, index in picked)
    return seconds, (run.solution.value - value) / (abs(run.solution.value) or 1.0)


def summary(found: list[tuple[float, float | None]], ours: list[Run]) -> Rival:
    """All runs of one rival; ``ours``: at least as many, of the same problems."""
    seconds = [taken for taken, _ in found]
    deficits = [deficit for _, deficit in found if deficit is not None]
    slower = [taken / run.wall for taken, run in zip(seconds, ours, strict=False)]
    return Rival(
        runs=len(found),
        no_plan=len(found) - len(deficits),
        median_ms=milliseconds(seconds),
        times_slower=round(statistics.median(slower), 1),
        worst_deficit=max(deficits, default=0.0),
        least_deficit=min(deficits, default=0.0),
    )


def milliseconds(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return round(1e3 * statistics.median(seconds), 2)
