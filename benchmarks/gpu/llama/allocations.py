"""The sizes that compressors choose: importances and budgets in, integers out. No weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack import Group, Problem, check, solve

ALIGN = 8
WINDOW_STEPS = 8
"""Candidates on each side of the wanted size; GAC leaves it open, its scripts use 3 to 8."""
TENTHS = (4, 5, 6, 7, 8, 9)
"""Kept fractions that ASVD probes, in tenths, so that its ranks are exact integers."""
SPREAD = 0.8
"""Standard deviation of the logarithm of every drawn importance, as in gacfx's own curves."""
STEEPNESS = 1.5
"""ASVD's perplexity rises with importance x (1 / kept - 1) ** STEEPNESS."""

Shapes = Mapping[str, tuple[int, int]]
Ranks = Mapping[str, int | None]
"""Linear layer -> rank of its two factors, None for dense."""


@dataclass(frozen=True, slots=True)
class Dim:
    """One size that may be chosen anew."""

    wanted: int
    """What the compressor chose."""
    top: int
    """The largest size that makes sense."""
    unit_params: int
    """Parameters of one more unit of it."""
    importance: float
    """Value of one parameter, s_i of Eq. 4."""


def importances(count: int, seed: int) -> NDArray[np.float64]:
    """[count] log-normal."""
    return np.random.default_rng(seed).lognormal(0.0, SPREAD, count)


def break_even(rows: int, columns: int) -> int:
    """The largest rank whose factors have fewer parameters than the dense weight."""
    return (rows * columns - 1) // (rows + columns)


def cost(shapes: Shapes, ranks: Ranks) -> int:
    """Parameters of all weights."""
    sizes = ((ranks[name], *shape) for name, shape in shapes.items())
    return sum(m * n if rank is None else rank * (m + n) for rank, m, n in sizes)


def asvd_rank(rows: int, columns: int, tenths: int) -> int:
    """ASVD's rank for a kept fraction: floor(int(m n rho) / (m + n))."""
    return rows * columns * tenths // 10 // (rows + columns)


def asvd(shapes: Shapes, seed: int, budget: int) -> dict[str, int | None]:
    """The published search: as few of the most sensitive entries as possible are given up.

    Every weight has a sensitivity at every kept fraction. The entries are sorted, the most
    sensitive first, and cut; each weight takes the smallest fraction that is left for it, or stays
    dense.

    Args:
        shapes: name -> (rows, columns).
        seed: of the importances that stand for measured perplexities.
        budget: the result has at most this many parameters.
    """
    entries = [
        (-score * (10 / tenths - 1) ** STEEPNESS, index, tenths)
        for index, score in enumerate(importances(len(shapes), seed))
        for tenths in TENTHS
    ]
    entries.sort()
    low, high = 0, len(entries)
    while low < high:  # the more entries are cut off, the more parameters stay
        cut = (low + high + 1) // 2
        fits = cost(shapes, _after_cut(shapes, entries[cut:])) <= budget
        low, high = (cut, high) if fits else (low, cut - 1)
    return _after_cut(shapes, entries[low:])


def _after_cut(shapes: Shapes, entries: Sequence[tuple[float, int, int]]) -> dict[str, int | None]:
    smallest: dict[int, int] = {}
    for _, index, tenths in entries:
        smallest[index] = min(tenths, smallest.get(index, tenths))
    return {
        name: asvd_rank(*shape, smallest[index]) if index in smallest else None
        for index, (name, shape) in enumerate(shapes.items())
    }


def reselect(dims: Mapping[str, Dim]) -> dict[str, int]:
    """Name -> aligned size: GAC's knapsack (Eq. 4) under the budget of the wanted sizes, exact."""
    groups = []
    for name, dim in dims.items():
        middle = dim.wanted // ALIGN
        steps = np.arange(middle - WINDOW_STEPS + 1, middle + WINDOW_STEPS + 1)
        sizes = ALIGN * steps[(steps > 0) & (steps * ALIGN <= dim.top)]
        values = (sizes - dim.wanted) * np.float64(dim.importance * dim.unit_params)
        groups.append(Group(name, sizes * dim.unit_params, values, tuple(sizes.tolist())))
    budget = sum(dim.wanted * dim.unit_params for dim in dims.values())
    return {name: int(size) for name, size in _solved(groups, budget).items()}


def plan(shapes: Shapes, seed: int, budget: int, align: int) -> dict[str, int | None]:
    """gacfx's default: every aligned rank below break-even, or dense, on power-law loss curves."""
    draw = np.random.default_rng(seed)
    groups = []
    for name, (m, n) in shapes.items():
        decay, scale = 0.5 * draw.uniform(0.3, 1.7), 1e-2 * draw.lognormal(0.0, SPREAD)
        ranks = np.arange(align, break_even(m, n) + 1, align)
        losses = scale * tail(min(m, n), decay)[ranks]
        costs, values = np.append(ranks * (m + n), m * n), np.append(-losses, 0.0)
        groups.append(Group(name, costs, values, (*ranks.tolist(), "dense")))
    chosen = _solved(groups, budget)
    return {name: None if rank == "dense" else int(rank) for name, rank in chosen.items()}


def tail(size: int, decay: float) -> NDArray[np.float64]:
    """[size + 1]: share of sum i^(-2 decay) beyond every rank, as in gacfx's synthetic curves.

    Written again because the pass that has it needs torch.fx.
    """
    energy = np.arange(1, size + 1, dtype=np.float64) ** (-2.0 * decay)
    beyond = np.append(np.cumsum(energy[::-1])[::-1], 0.0)
    return np.asarray(beyond / beyond[0])


def channel_scores(layers: int, width: int, seed: int) -> NDArray[np.float64]:
    """[layers, width] scores of MLP channels: layers differ, and channels inside a layer."""
    draw = np.random.default_rng((seed, 1))
    return np.asarray(
        importances(layers, seed)[:, None] * draw.lognormal(0.0, 1.0, (layers, width))
    )


def below_one_threshold(scores: NDArray[np.float64], to_remove: int) -> list[int]:
    """[layers] how many channels stay when the lowest ``to_remove`` of all layers go."""
    threshold = np.partition(scores, to_remove, axis=None)[to_remove]
    kept: list[int] = (scores >= threshold).sum(axis=1).tolist()
    return kept


def _solved(groups: Sequence[Group], budget: int) -> dict[str, int | str]:
    """Name -> label of the chosen candidate; the optimum is checked by its certificate."""
    problem = Problem(tuple(groups), budget)
    solution = solve(problem)
    check(problem, solution).require()
    return {g.name: g.labels[i] for g, i in zip(groups, solution.choice, strict=True)}
