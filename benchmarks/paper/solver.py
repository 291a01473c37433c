"""Table 2 of GAC-v1 at the shapes of Llama-3-8B: who keeps how much importance, and how soon.

    python -m benchmarks.paper.solver [--seeds 8] [--repeats 3]

224 matrices of 6.98 billion parameters, no weights. Importance scores are SYNTHETIC: seeded draws,
lognormal with sigma 0.8, one for each matrix; so shares that are aligned and importance that is
kept are those of such scores, not of Llama-3-8B, and stand beside the printed ones only to be
compared in kind. Importance is Eq. 1 of GAC-v1, the sum of score x rank, against the unconstrained
ranks, which are in proportion to importance (:mod:`gacfx.compressors.proportional`).

    unconstrained   those ranks
    round-nearest   each rounded to the nearest multiple; whether that keeps the budget is counted
    greedy          GAC-v1: rounded down, then the best step up while it fits
    dp              GAC-v2: eight multiples near each rank, by dynamic program, exact costs
    exact, window   the same sizes by gacfx's solver
    exact           every multiple up to break-even, by gacfx's solver

    any rank        the same with every rank, aligned or not: no aligned plan can keep more

Times are of one call on a finished problem, the proof among them: medians of processor time over
seeds and repeats.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.paper import views
from benchmarks.paper.printed import TABLE2, V1
from benchmarks.planning_problems import LLAMA_8B
from gacfx.allocation.offers import window_of
from gacfx.compressors.proportional import Proportional, proportional_ranks
from gacfx.knapsack import Problem
from gacfx.knapsack.group import Group
from gacfx.knapsack.one_budget import core
from gacfx.knapsack.paper import solve_dp, solve_greedy
from gacfx.knapsack.paper.rounding import round_nearest

NAME = "paper_solver"
ALIGNS, RATIOS = (8, 16), ("0.2", "0.3")
WINDOW = 8
SIGMA = 0.8
STRATEGIES = (
    "unconstrained",
    "round-nearest",
    "greedy",
    "dp",
    "exact, window",
    "exact",
    "any rank",
)

Shapes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Ranks:
    """What one strategy made of one draw."""

    aligned: float
    """Share of the ranks that are multiples."""
    importance: float
    """Sum of score x rank, against the unconstrained ranks."""
    over_params: int
    """Above the budget; negative: what is left of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy over all draws."""

    align: int
    ratio: str
    strategy: str
    aligned: float
    """Mean share."""
    importance: float
    """Mean, with the least and the most."""
    importance_least: float
    importance_most: float
    over_budget: int
    """Draws in which the budget is exceeded."""
    over_most: float
    """By how much at most, as a share of it; 0 where it never is."""
    unspent: float
    """Share of the budget that is left, mean of the draws that keep it; 0 where none does."""
    milliseconds: float
    """Of the processor, median."""
    draws: int


def shapes() -> dict[str, tuple[int, int]]:
    """Matrix -> (rows, columns), of Llama-3-8B."""
    found: dict[str, tuple[int, int]] = {}
    for kind, (rows, columns, count) in enumerate(LLAMA_8B.weights):
        found |= {f"kind{kind}.{number}": (rows, columns) for number in range(count)}
    return found


def scores(known: Shapes, seed: int) -> dict[str, float]:
    """Matrix -> synthetic importance."""
    drawn = np.random.default_rng(seed).lognormal(0.0, SIGMA, len(known))
    return dict(zip(known, drawn.tolist(), strict=True))


def problem(
    known: Shapes, value: Mapping[str, float], free: Proportional, align: int, window: int = 0
) -> Problem:
    """Every multiple up to break-even for each matrix, or the few around its free rank.

    Args:
        known: matrix -> shape.
        value: matrix -> importance of a rank.
        free: the unconstrained ranks, and the budget.
        align: multiple.
        window: how many of them; 0 for all.
    """
    groups = []
    for name, (rows, columns) in known.items():
        ranks = np.arange(align, rows * columns // (rows + columns) + 1, align)
        if window:
            ranks = ranks[window_of(ranks.tolist(), float(free.ranks[name]), window)]
        costs, labels = ranks * (rows + columns), tuple(ranks.tolist())
        groups.append(Group(name, costs, value[name] * ranks.astype(np.float64), labels))
    return Problem(groups, free.budget)


def solved(
    known: Shapes, value: Mapping[str, float], ratio: str, align: int, strategy: str
) -> tuple[dict[str, int], int, float]:
    """(matrix -> rank, budget, milliseconds) of one strategy."""
    begin = time.process_time()
    free = proportional_ranks(known, value, ratio)
    spent = time.process_time() - begin
    if strategy == "unconstrained":
        return dict(free.ranks), free.budget, 1e3 * spent
    near = WINDOW if strategy in ("dp", "exact, window") else 0
    made = problem(known, value, free, 1 if strategy == "any rank" else align, near)
    wanted = {name: float(rank) for name, rank in free.ranks.items()}
    solve: dict[str, Callable[[], Any]] = {
        "round-nearest": lambda: round_nearest(made, wanted),
        "greedy": lambda: solve_greedy(made, wanted),
        "dp": lambda: solve_dp(made),
    }
    call = solve.get(strategy, lambda: core.solve(made))
    begin = time.process_time()
    found = call()
    spent = time.process_time() - begin
    picks = zip(made.groups, found.choice, strict=True)
    ranks = {group.name: int(group.labels[pick]) for group, pick in picks}
    return ranks, free.budget, 1e3 * spent


def judged(
    known: Shapes, value: Mapping[str, float], ranks: Mapping[str, int], budget: int, align: int,
    free: float,
) -> Ranks:  # fmt: skip
    """What ranks are worth, whoever chose them.

    Args:
        known: matrix -> shape.
        value: matrix -> importance of a rank.
        ranks: matrix -> rank.
        budget: parameters that may remain.
        align: multiple.
        free: importance of the unconstrained ranks.
    """
    params = sum(rank * sum(known[name]) for name, rank in ranks.items())
    return Ranks(
        aligned=sum(rank % align == 0 for rank in ranks.values()) / len(ranks),
        importance=kept(value, ranks) / free,
        over_params=params - budget,
    )


def kept(value: Mapping[str, float], ranks: Mapping[str, int]) -> float:
    """Sum of score x rank."""
    return sum(value[name] * rank for name, rank in ranks.items())


def row(known: Shapes, align: int, ratio: str, strategy: str, seeds: int, repeats: int) -> Row:
    """One strategy over all draws."""
    found, times, budget = list[Ranks](), list[float](), 1
    for seed in range(seeds):
        value = scores(known, seed)
        free = kept(value, proportional_ranks(known, value, ratio).ranks)
        for _ in range(repeats):
            ranks, budget, took = solved(known, value, ratio, align, strategy)
            times.append(took)
        found.append(judged(known, value, ranks, budget, align, free))
    importance = [each.importance for each in found]
    over = [each.over_params for each in found if each.over_params > 0]
    left = [-each.over_params for each in found if each.over_params <= 0]
    return Row(
        align,
        ratio,
        strategy,
        aligned=statistics.mean(each.aligned for each in found),
        importance=statistics.mean(importance),
        importance_least=min(importance),
        importance_most=max(importance),
        over_budget=len(over),
        over_most=max(over, default=0) / budget,
        unspent=statistics.mean(left) / budget if left else 0.0,
        milliseconds=statistics.median(times),
        draws=len(found),
    )


def main(given: Sequence[str] | None = None) -> int:
    """0: a budget that is exceeded is a result."""
    parser = argparse.ArgumentParser(description="Table 2 of GAC-v1 at Llama-3-8B's shapes.")
    parser.add_argument("--seeds", type=int, default=8, help="draws of the importance (8)")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each (3)")
    parser.add_argument("--out", type=Path, help=f"of the results (default: results/{NAME}.json)")
    asked = parser.parse_args(given)
    if asked.seeds < 1 or asked.repeats < 1:
        parser.error("--seeds and --repeats: give at least 1")
    busy, known = record.others(), shapes()
    rows = [
        asdict(row(known, align, ratio, strategy, asked.seeds, asked.repeats))
        for align in ALIGNS
        for ratio in RATIOS
        for strategy in STRATEGIES
    ]
    print(views.solver(rows).markdown())
    results = {
        "what": "SYNTHETIC importance scores, seeded; shapes of Llama-3-8B",
        **busy,
        "matrices": len(known),
        "params": sum(rows * columns for rows, columns in known.values()),
        "rows": rows,
        "printed": {"what": V1, "rows": [each._asdict() for each in TABLE2]},
    }
    print(record.write(NAME, results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
