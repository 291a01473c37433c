"""What the two GAC papers print, about Llama-3-8B on an A100: to stand beside, never as ours."""

from typing import NamedTuple

V1 = "GAC, first version (anonymous preprint)"
V2 = "GAC, EuroMLSys 2026 (arXiv 2604.09595)"


class Solver(NamedTuple):
    """A row of Table 2 of the first version: 224 matrices, 6.98 billion parameters."""

    align: int
    ratio: str
    strategy: str
    aligned: float
    importance: float
    """Kept, against the unconstrained row."""
    milliseconds: float


def _solvers() -> tuple[Solver, ...]:
    rows = {
        (8, "0.2"): (0.509, 0.2, 0.8, 1.064, 189.5),
        (8, "0.3"): (0.397, 0.2, 0.6, 1.072, 167.4),
        (16, "0.2"): (0.455, 0.2, 0.6, 1.064, 87.1),
        (16, "0.3"): (0.344, 0.2, 0.6, 1.072, 80.5),
    }
    found = []
    for (align, ratio), (aligned, free_ms, nearest_ms, kept, gac_ms) in rows.items():
        found += [
            Solver(align, ratio, "unconstrained", aligned, 1.0, free_ms),
            Solver(align, ratio, "round-nearest", 1.0, 1.0, nearest_ms),
            Solver(align, ratio, "gac", 1.0, kept, gac_ms),
        ]
    return tuple(found)


TABLE2 = _solvers()
"""Every row is said to keep the budget."""


class EndToEnd(NamedTuple):
    """A row of Table 3 of the first version: ratio 0.2, steps of 8, batch 1, 512 tokens."""

    params: float
    """Billions."""
    aligned: float
    milliseconds: float
    """Estimated from measurements of single operations."""
    times_as_fast: float
    perplexity: float
    accuracy: float
    """Mean zero-shot."""


TABLE3 = {
    "dense": EndToEnd(6.98, 1.0, 48.0, 1.00, 6.14, 0.728),
    "asvd": EndToEnd(5.31, 0.509, 41.7, 1.15, 7.82, 0.683),
    "asvd-gac": EndToEnd(5.58, 1.0, 38.5, 1.25, 7.51, 0.691),
    "llm-pruner": EndToEnd(5.58, 0.826, 38.9, 1.23, 8.43, 0.669),
    "llm-pruner-gac": EndToEnd(5.58, 1.0, 38.4, 1.25, 8.12, 0.675),
}
"""Name of a row -> what is printed."""


class Measured(NamedTuple):
    """A row of Table 5 of the second version: 15 % removed, batch 1, prefill of 1024 tokens."""

    aligned: float
    perplexity: float
    piqa: float
    """Of 200 items."""
    hellaswag: float
    milliseconds: float
    """Measured."""


TABLE5 = {
    "dense": Measured(1.0, 6.14, 0.80, 0.50, 99.6),
    "asvd": Measured(0.05, 34.7, 0.58, 0.28, 100.5),
    "asvd-gac": Measured(1.0, 31.3, 0.57, 0.26, 67.1),
    "llm-pruner": Measured(0.83, 9.88, 0.80, 0.49, 137.7),
    "llm-pruner-gac": Measured(1.0, 9.87, 0.78, 0.47, 88.0),
}
"""The same."""
