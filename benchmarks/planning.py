"""How long does an exact, proven plan take, and how long does CBC take for the same problem?

    python -m benchmarks.planning

Weight shapes are those of Llama-3-8B and Llama-3-70B. Importances and singular spectra are
SYNTHETIC (seeded), so nothing here says anything about quality. Costs are parameters; values are
minus the energy of the dropped singular values. Our time is ``solve`` on a finished problem, the
best of five. CBC's is ``solve_ilp`` once, wall clock, with the writing of its program, which a user
of PuLP pays as well.
"""

import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from gacfx.planning import Problem, Solution, check, kept_budget, solve, solve_ilp

ALIGN = 8
WINDOW = 8
RATIOS = (0.1, 0.2, 0.3, 0.4)
SEEDS = range(4)
REPEATS = 5
CBC_RUNS = 4
CBC_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a gated decoder without biases."""

    name: str
    hidden: int
    keys: int
    width: int
    layers: int

    @property
    def weights(self) -> list[tuple[int, int]]:
        """(rows, columns) of every linear weight: q, k, v, o, gate, up, down, layer by layer."""
        attention = [(self.hidden, self.hidden), (self.keys, self.hidden), (self.keys, self.hidden)]
        mlp = [(self.width, self.hidden)] * 2 + [(self.hidden, self.width)]
        return [*attention, (self.hidden, self.hidden), *mlp] * self.layers


LLAMA_8B = Model("Llama-3-8B", 4096, 1024, 14336, 32)
LLAMA_70B = Model("Llama-3-70B", 8192, 1024, 28672, 80)


@dataclass(frozen=True, slots=True)
class Case:
    """One family of problems."""

    model: Model
    window: bool
    """Only the ranks around a wanted rank, not all below break-even."""
    dense: bool
    """The dense weight is a candidate, so curves are not concave."""
    with_cbc: bool = False

    @property
    def name(self) -> str:
        sweep = "window" if self.window else "full"
        return f"{self.model.name} {sweep}, {'keep-dense' if self.dense else 'concave'}"


CASES = (
    Case(LLAMA_8B, window=True, dense=False, with_cbc=True),
    Case(LLAMA_8B, window=True, dense=True, with_cbc=True),
    Case(LLAMA_8B, window=False, dense=False),
    Case(LLAMA_8B, window=False, dense=True),
    Case(LLAMA_70B, window=False, dense=False),
    Case(LLAMA_70B, window=False, dense=True),
)


def make(case: Case, ratio: float, seed: int) -> Problem:
    """One problem: every weight may take an aligned rank below break-even, or stay dense."""
    rng = np.random.default_rng(seed)
    shapes = case.model.weights
    kept = kept_budget(sum(rows * columns for rows, columns in shapes), ratio)
    importance = rng.lognormal(0.0, 0.8, len(shapes))
    decay = rng.uniform(0.15, 0.9, len(shapes))
    wanted = wanted_shares(shapes, importance, kept)
    pairs = []
    shared: dict[tuple[int, ...], NDArray[np.int64]] = {}
    for (rows, columns), weight, power, share in zip(
        shapes, importance, decay, wanted, strict=True
    ):
        ranks = aligned_ranks(rows, columns, share if case.window else None)
        costs = ranks * (rows + columns)
        values = -weight * rows * columns * dropped_energy(ranks, min(rows, columns), power)
        if case.dense:
            costs, values = np.append(costs, rows * columns), np.append(values, 0.0)
        pairs.append((shared.setdefault(tuple(costs.tolist()), costs), values))
    return Problem.from_groups(pairs, kept)


def wanted_shares(
    shapes: list[tuple[int, int]], importance: NDArray[np.float64], kept: int
) -> NDArray[np.float64]:
    """What a compressor without alignment takes of break-even: by importance, within the budget."""
    sizes = np.array([rows * columns for rows, columns in shapes], np.float64)
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = float((np.minimum(middle * importance**0.5, 1) * sizes).sum()) <= kept
        low, high = (middle, high) if fits else (low, middle)
    return np.minimum(low * importance**0.5, 1)


def aligned_ranks(rows: int, columns: int, wanted: float | None) -> NDArray[np.int64]:
    """All aligned ranks below break-even, or the few around ``wanted`` times break-even."""
    last = (rows * columns - 1) // (rows + columns) // ALIGN
    if wanted is None:
        return ALIGN * np.arange(1, last + 1)
    middle = int(np.clip(wanted * last, 1, last))
    first = int(np.clip(middle - WINDOW // 2 + 1, 1, last - WINDOW + 1))
    return ALIGN * np.arange(first, first + WINDOW)


def dropped_energy(ranks: NDArray[np.int64], full: int, power: float) -> NDArray[np.float64]:
    """Share of the squared singular values beyond each rank, for the spectrum k ** -power."""
    energy = np.cumsum(np.arange(1, full + 1) ** (-2 * power))
    share: NDArray[np.float64] = 1 - energy[ranks - 1] / energy[-1]
    return share


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of a case; times in milliseconds of wall clock, but for ``cpu_ms``."""

    case: str
    groups: int
    candidates: int
    runs: int
    proven: int
    median_ms: float
    max_ms: float
    cpu_ms: float
    """Median processor time: less moved by a busy machine"""
    check_ms: float
    """Median time of the exact checker."""
    worst_certified_gap: float
    """Largest gap that the checker certifies without trusting the search, over the value."""
    cbc_runs: int = 0
    cbc_median_ms: float | None = None
    cbc_times_slower: float | None = None
    """Median over the runs that both did."""
    cbc_worst_deficit: float | None = None
    """Largest amount by which CBC's plan is worth less, over the value."""


def run(case: Case) -> Row:
    """Solve, check and, where asked, compare every problem of a case."""
    times, cpu, checks, gaps, proven = [], [], [], [], 0
    cbc: list[tuple[float, float, float]] = []
    groups = candidates = 0
    for seed in SEEDS:
        for ratio in RATIOS:
            problem = make(case, ratio, seed)
            seconds, cpu_seconds, solution = timed_solve(problem)
            begin = time.perf_counter()
            certificate = check(problem, solution)
            checks.append(time.perf_counter() - begin)
            certificate.require()
            times.append(seconds)
            cpu.append(cpu_seconds)
            gaps.append(float(certificate.certified_gap) / abs(solution.value))
            proven += solution.status == "optimal"
            groups, candidates = len(problem.groups), int(solution.stats["candidates"])
            if case.with_cbc and len(cbc) < CBC_RUNS:
                cbc.append(compare(problem, solution, seconds))
    row = Row(
        case=case.name,
        groups=groups,
        candidates=candidates,
        runs=len(times),
        proven=proven,
        median_ms=milliseconds(times),
        max_ms=round(1e3 * max(times), 2),
        cpu_ms=milliseconds(cpu),
        check_ms=milliseconds(checks),
        worst_certified_gap=max(gaps),
    )
    return with_cbc(row, cbc) if cbc else row


def timed_solve(problem: Problem) -> tuple[float, float, Solution]:
    """Best wall and processor time of a few runs, and the solution, which is always the same."""
    wall = cpu = float("inf")
    for _ in range(REPEATS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        solution = solve(problem)
        wall = min(wall, time.perf_counter() - begin)
        cpu = min(cpu, time.process_time() - begin_cpu)
    return wall, cpu, solution


def compare(problem: Problem, solution: Solution, seconds: float) -> tuple[float, float, float]:
    """(seconds of CBC, times slower, how much less its plan is worth over the value)."""
    other = solve_ilp(problem, time_limit=CBC_SECONDS)
    taken = float(other.stats["seconds"])
    return taken, taken / seconds, (solution.value - other.value) / abs(solution.value)


def with_cbc(row: Row, cbc: list[tuple[float, float, float]]) -> Row:
    """The row with the comparison filled in."""
    seconds, slower, deficit = zip(*cbc, strict=True)
    filled = {
        "cbc_runs": len(cbc),
        "cbc_median_ms": milliseconds(list(seconds)),
        "cbc_times_slower": round(statistics.median(slower), 1),
        "cbc_worst_deficit": max(deficit),
    }
    return Row(**(asdict(row) | filled))


def milliseconds(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return round(1e3 * statistics.median(seconds), 2)


def line(row: Row) -> str:
    """One line of the table."""
    times = (row.median_ms, row.max_ms, row.cpu_ms, row.check_ms)
    cbc = f"{row.cbc_median_ms} ms, {row.cbc_times_slower} x" if row.cbc_runs else "-"
    proven = f"{row.proven}/{row.runs}"
    columns = "".join(f"{time_ms:>10}" for time_ms in times)
    return f"{row.case:34}{row.candidates:>11,}{proven:>8}{columns}   {cbc}"


def main() -> None:
    """Run all cases, print a table, write the results."""
    heads = "".join(f"{head:>10}" for head in ("median ms", "max ms", "cpu ms", "check ms"))
    print(f"{'case':34}{'candidates':>11}{'proven':>8}{heads}   CBC")
    rows = []
    for case in CASES:
        rows.append(run(case))
        print(line(rows[-1]), flush=True)
    results = {
        "data": "real weight shapes, synthetic importances and spectra",
        "ratios": RATIOS,
        "seeds": len(SEEDS),
        "cbc_scaling": "values centred per group, widest group 1000; costs in quanta; 1 thread",
        "rows": [asdict(row) for row in rows],
    }
    print("written to", record.write("planning", results))


if __name__ == "__main__":
    main()
