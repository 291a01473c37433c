"""How long does an exact, proven plan take, and how long does CBC or HiGHS take for the same?

    python -m benchmarks.planning [--only TEXT]

The problems are those of ``planning_problems``: real weight shapes with SYNTHETIC importances and
spectra, and classical random families. Our time is the median of ``solve`` on finished problems,
each solved a few times, at least twenty times in all; max is that of the slowest problem. Verdicts
go by processor time, which a busy machine moves less; wall clock is beside it. Every case is a
process of its own, so that its peak memory is its own as well: that of the whole process after the
first solution, with the interpreter, numpy and the problem. Rivals run once per problem, through
PuLP; their time is wall clock, with the making of the program, which a user of PuLP pays as well.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict

from benchmarks import record
from benchmarks.planning_measure import RATIOS, Goal, Plan, Row, measure
from benchmarks.planning_problems import (
    DEEPSEEK_V3,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_405B,
    Case,
    Classic,
)

PLANS = (
    Plan(Case(LLAMA_8B, window=True, dense=False), Goal(20), seeds=25, rivals=4),
    Plan(Case(LLAMA_8B, window=True, dense=False, curve="linear"), Goal(20), seeds=25),
    Plan(Case(LLAMA_8B, window=True, dense=False, curve="noisy"), Goal(20), seeds=25),
    Plan(Case(LLAMA_8B, window=True, dense=True), Goal(20), seeds=25, rivals=4),
    Plan(Case(LLAMA_8B, window=False, dense=False), Goal(20, times=300), rivals=2),
    Plan(Case(LLAMA_8B, window=False, dense=False, curve="linear"), Goal(20)),
    Plan(Case(LLAMA_8B, window=False, dense=False, curve="noisy"), Goal(20)),
    Plan(Case(LLAMA_8B, window=False, dense=True), Goal(20)),
    Plan(Case(LLAMA_70B, window=False, dense=False), Goal(60)),
    Plan(Case(LLAMA_70B, window=False, dense=True), Goal(60)),
    Plan(Case(LLAMA_8B, window=False, dense=True, forms=True), Goal(20)),
    Plan(Case(LLAMA_70B, window=False, dense=True, forms=True), Goal(60)),
    Plan(Case(LLAMA_405B, window=False, dense=False), Goal(60), seeds=2),
    Plan(Case(LLAMA_405B, window=False, dense=True), Goal(60), seeds=2),
    Plan(Case(DEEPSEEK_V3, window=True, dense=False), None, seeds=2),
    Plan(Case(DEEPSEEK_V3, window=True, dense=True), None, seeds=2),
    Plan(Case(DEEPSEEK_V3, window=False, dense=False), None, seeds=1, repeats=1),
    Plan(Case(DEEPSEEK_V3, window=False, dense=True), None, seeds=1, repeats=1),
    *(
        Plan(Classic(kind, 10_000, 100), Goal(2000), seeds=4)
        for kind in ("uncorrelated", "weakly correlated", "subset sum", "zig-zag")
    ),
    Plan(Classic("0-1, strongly correlated", 10_000, 2), None, seeds=4),
    *(
        Plan(Classic(kind, 100_000, 20), Goal(2000), seeds=4)
        for kind in ("uncorrelated", "weakly correlated")
    ),
    Plan(Classic("strongly correlated", 100, 10), None),
    Plan(Classic("strongly correlated", 1000, 10), None, seeds=4),
    Plan(Classic("strongly correlated", 1000, 100), None, seeds=4),
    Plan(Classic("strongly correlated", 10_000, 10), None, seeds=4, repeats=2),
    Plan(Classic("subset sum", 224, 273, 10**7), Goal(2000, peak_mib=500, gap=1e-6)),
)


def in_a_process(number: int) -> Row:
    """The row of one plan, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.planning", "--one", str(number)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{PLANS[number].case.name}: {done.stderr.strip()}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


HEADS = ("candidates", "proven", "cpu ms", "max", "wall ms", "max", "MiB", "gap")


def line(row: Row) -> str:
    """One line of the table."""
    times = (row.cpu_ms, row.cpu_max_ms, row.wall_ms, row.wall_max_ms)
    columns = "".join(f"{time_ms:>10.2f}" for time_ms in times)
    goal = "-" if row.goal is None else "; ".join(row.misses) or "reached"
    rivals = "".join(
        f"  {name} {found['median_ms']:.0f} ms ({found['times_slower']:.0f} x)"
        for name, found in row.rivals.items()
    )
    return (
        f"{row.case:36}{row.candidates:>10,}{f'{row.proven}/{row.problems}':>10}{columns}"
        f"{row.peak_mib:>10.0f}{row.worst_gap:>10.1e}   {goal}{rivals}"
    )


def main() -> None:
    """Run all cases, print a table, write the results."""
    parser = argparse.ArgumentParser(description="Planning: time, memory and proof.")
    parser.add_argument("--only", default="", help="cases whose name contains this; writes nothing")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(asdict(measure(PLANS[options.one]))))
        return
    print(f"{'case':36}" + "".join(f"{head:>10}" for head in HEADS) + "   goal")
    rows = []
    for number, plan in enumerate(PLANS):
        if options.only in plan.case.name:
            rows.append(in_a_process(number))
            print(line(rows[-1]), flush=True)
    if options.only:
        return
    results = {
        "data": "real weight shapes, synthetic importances and spectra; classical random families",
        "verdicts": "by processor time",
        "ratios": RATIOS,
        "rivals": "PuLP, own tolerances, gapRel 0, 1 thread; values centred per group, the widest "
        "group spans 1000; costs in quanta",
        "rows": [asdict(row) for row in rows],
    }
    print("written to", record.write("planning", results))


if __name__ == "__main__":
    main()
