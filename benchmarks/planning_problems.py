"""The problems that planning is measured on: weights of real shapes, and classical random ones.

Weight shapes are those of Llama-3 and DeepSeek-V3. Importances and singular spectra are SYNTHETIC
(seeded), so nothing here says anything about quality. Costs are parameters; values are minus the
energy of the dropped singular values. The classical problems are written from the descriptions in
Pisinger, EJOR 83 (1995); they are own draws, not those of his program.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gacfx.knapsack import Problem, kept_budget

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

ALIGN = 8
WINDOW = 8
SPREAD = 10
"""Weakly correlated values are off by at most this much, strongly correlated ones by exactly it"""
_ROWS = 512  # groups made at a time, so that the making needs little memory


@dataclass(frozen=True, slots=True)
class Model:
    """A name, and (rows, columns, how many) of every kind of linear weight."""

    name: str
    weights: tuple[tuple[int, int, int], ...]

    def kinds(self) -> dict[tuple[int, int], int]:
        """(longer side, shorter side) -> how many weights, in the order of a problem's groups."""
        found: dict[tuple[int, int], int] = {}
        for rows, columns, count in self.weights:
            kind = max(rows, columns), min(rows, columns)
            found[kind] = found.get(kind, 0) + count
        return found


def decoder(name: str, hidden: int, keys: int, width: int, layers: int) -> Model:
    """A gated decoder without biases."""
    attention = [(hidden, hidden, 2 * layers), (keys, hidden, 2 * layers)]
    return Model(name, (*attention, (width, hidden, 2 * layers), (hidden, width, layers)))


LLAMA_8B = decoder("Llama-3-8B", 4096, 1024, 14336, 32)
LLAMA_70B = decoder("Llama-3-70B", 8192, 1024, 28672, 80)
LLAMA_405B = decoder("Llama-3-405B", 16384, 1024, 53248, 126)
EXPERTS = 58 * 257  # 256 routed and one shared, in every layer but three
DEEPSEEK_V3 = Model(
    "DeepSeek-V3",
    (
        (1536, 7168, 61),
        (24576, 1536, 61),
        (576, 7168, 61),
        (32768, 512, 61),
        (7168, 16384, 61),
        (18432, 7168, 2 * 3),
        (7168, 18432, 3),
        (2048, 7168, 2 * EXPERTS),
        (7168, 2048, EXPERTS),
    ),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One family of problems: every weight may take an aligned rank below break-even."""

    model: Model
    window: bool
    """Only the ranks around a wanted rank, not all below break-even."""
    dense: bool
    """The dense weight is a candidate, so curves are not concave."""
    curve: Literal["energy", "linear", "noisy"] = "energy"
    """Minus the dropped energy; parameters times importance, as in Eq. 4 of GAC-v2; or energy with
    steps of random height, which is not concave"""
    forms: bool = False
    """Every rank is offered in two forms of storage: a pair of r (m + n) parameters below
    break-even, and a pivoted one of r (m + n - r) below the shorter side; both lose the same"""

    @property
    def name(self) -> str:
        sweep = "window" if self.window else "full"
        shape = "concave" if self.curve == "energy" else self.curve
        forms = ", two forms" if self.forms else ""
        return f"{self.model.name} {sweep}, {'keep-dense' if self.dense else shape}{forms}"


def make(case: Case, ratio: float, seed: int) -> Problem:
    """One problem; weights of one shape share their costs, but for those of a window."""
    rng = np.random.default_rng(seed)
    kinds = case.model.kinds()
    sizes = np.array([rows * columns for rows, columns in kinds])
    counts = np.array(list(kinds.values()))
    kept = kept_budget(int((sizes * counts).sum()), ratio)
    importance = rng.lognormal(0.0, 0.8, int(counts.sum()))
    decay = rng.uniform(0.15, 0.9, len(importance))
    wanted = wanted_shares(np.repeat(sizes, counts), importance, kept)
    pairs: list[tuple[ArrayLike, ArrayLike]] = []
    begin = 0
    for (rows, columns), count in kinds.items():
        part = slice(begin, begin + count)
        begin += count
        ranks = aligned_ranks(rows, columns, wanted[part] if case.window else None)
        weight = importance[part] * rows * columns
        costs, values = curves(case, (rows, columns), ranks, weight, decay[part])
        pairs += rows_of(costs, noisy(values, rng) if case.curve == "noisy" else values)
    return Problem.from_groups(pairs, kept)


def rows_of(costs: IntArray, values: FloatArray) -> list[tuple[ArrayLike, ArrayLike]]:
    """[groups] (costs, values) of groups with equally many candidates.

    Args:
        costs: [candidates], the same for every group, or [groups, candidates].
        values: [groups, candidates].
    """
    values.setflags(write=False)  # so that they are not copied
    return list(zip([costs] * len(values) if costs.ndim == 1 else costs, values, strict=True))


def curves(
    case: Case, shape: tuple[int, int], ranks: IntArray, weight: FloatArray, decay: FloatArray
) -> tuple[IntArray, FloatArray]:
    """(costs, values) of the weights of one shape; ``ranks``: [candidates] or [weights, ...]."""
    rows, columns = shape
    costs = ranks * (rows + columns)
    if case.forms:
        pivoted = ALIGN * np.arange(1, (min(shape) - 1) // ALIGN + 1)
        costs = np.concatenate((costs, pivoted * (rows + columns - pivoted)))
        ranks = np.concatenate((ranks, pivoted))
    values = np.zeros((len(weight), ranks.shape[-1] + case.dense))
    for begin in range(0, len(weight), _ROWS):
        part = slice(begin, begin + _ROWS)
        mine = ranks if ranks.ndim == 1 else ranks[part]
        if case.curve == "linear":
            dropped = 1 - mine * (rows + columns) / (rows * columns)
        else:
            dropped = dropped_energy(mine, min(rows, columns), decay[part, None])
        values[part, : ranks.shape[-1]] = -weight[part, None] * dropped
    if case.dense:  # costs all parameters and drops nothing
        costs = np.concatenate([costs, np.full((*costs.shape[:-1], 1), rows * columns)], axis=-1)
    return costs, values


def noisy(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The same with steps of random height between neighbours; the first value stays."""
    steps = np.diff(values, axis=1)
    rising = np.cumsum(steps * rng.lognormal(0.0, 1.0, steps.shape), axis=1)
    found: FloatArray = values[:, :1] + np.concatenate((0 * rising[:, :1], rising), 1)
    return found


def wanted_shares(sizes: IntArray, importance: FloatArray, kept: int) -> FloatArray:
    """What a compressor without alignment takes of break-even: by importance, within the budget."""
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = float((np.minimum(middle * importance**0.5, 1) * sizes).sum()) <= kept
        low, high = (middle, high) if fits else (low, middle)
    return np.minimum(low * importance**0.5, 1)


def aligned_ranks(rows: int, columns: int, wanted: FloatArray | None) -> IntArray:
    """All aligned ranks below break-even, or for every weight the few around ``wanted`` of it."""
    last = (rows * columns - 1) // (rows + columns) // ALIGN
    if wanted is None:
        return ALIGN * np.arange(1, last + 1)
    middle = np.clip((wanted * last).astype(np.int64), 1, last)
    first = np.clip(middle - WINDOW // 2 + 1, 1, last - WINDOW + 1)
    ranks: IntArray = ALIGN * (first[:, None] + np.arange(WINDOW))
    return ranks


def dropped_energy(ranks: IntArray, full: int, decay: FloatArray) -> FloatArray:
    """Share of the squared singular values beyond each rank, for the spectrum k ** -decay.

    By the integral instead of the sum, which keeps the curve and is far cheaper for many weights.
    """
    power = 1 - 2 * decay
    share: FloatArray = np.expm1(power * np.log1p(ranks)) / np.expm1(power * np.log1p(full))
    return 1 - share


@dataclass(frozen=True, slots=True)
class Classic:
    """One of Pisinger's families; costs and values up to ``most`` per candidate or step."""

    kind: str
    groups: int
    candidates: int
    most: int = 1000

    @property
    def name(self) -> str:
        suffix = "" if self.most == 1000 else f", up to {self.most:,}"
        return f"{self.kind} {self.groups:,} x {self.candidates}{suffix}"


def make_classic(case: Classic, seed: int) -> Problem:
    """One problem, with half of what lies between the cheapest and the dearest plan."""
    rng = np.random.default_rng(seed)
    shape = case.groups, case.candidates
    costs = rng.integers(1, case.most + 1, shape)
    if case.kind == "uncorrelated":
        values = rng.integers(1, case.most + 1, shape)
    elif case.kind == "weakly correlated":
        values = np.maximum(1, costs + rng.integers(-SPREAD, SPREAD + 1, shape))
    elif case.kind == "strongly correlated":
        steps = np.sort(costs, axis=1)
        costs, values = np.cumsum(steps, axis=1), np.cumsum(steps + SPREAD, axis=1)
    elif case.kind == "0-1, strongly correlated":  # take it or leave it, as in a plain knapsack
        costs = np.stack((np.zeros(case.groups, np.int64), costs[:, 0]), axis=1)
        values = np.where(costs > 0, costs + SPREAD, 0)
    elif case.kind == "subset sum":
        values = costs
    elif case.kind == "zig-zag":
        costs = np.sort(costs, axis=1)
        values = np.sort(rng.integers(1, case.most + 1, shape), axis=1)
    else:
        raise ValueError(f"unknown kind {case.kind!r}")
    budget = int(costs.min(axis=1).sum() + costs.max(axis=1).sum()) // 2
    return Problem.from_groups(rows_of(costs, values.astype(np.float64)), budget)
