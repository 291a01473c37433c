"""The ranks that a method would take by itself, before any thought of alignment.

All four methods are allocated uniformly: the same share is removed of every weight, as SVD-LLM v1
does. The search of ASVD, which measures the perplexity of each layer at six ratios, is NOT
reproduced here, so ``asvd`` with these ranks is not a run of the published ASVD.
"""

from collections.abc import Mapping
from fractions import Fraction

from gacfx.errors import PlanError


def wanted_rank(rows: int, columns: int, ratio: float | str, groups: int = 0) -> float:
    """d*: the rank at which the factors have exactly the share 1 - ``ratio`` of the parameters.

    Args:
        rows: outputs of the weight.
        columns: inputs of the weight.
        ratio: share to remove, 0..1; decimal text or a float that prints as the decimal meant.
        groups: of outputs with factors of their own, whose ranks are added up; 0 for none.
    """
    whole = _exact_rank(rows, columns, ratio)
    if not groups:
        return float(whole)
    return float(whole * (rows + columns) * groups / (rows + groups * columns))


def upstream_rank(rows: int, columns: int, ratio: float | str) -> int | None:
    """The rank of the published codes, floor(M N (1 - ratio) / (M + N)), at least 1.

    None, keep dense, where the factors would have as many parameters as the weight. Exact in the
    decimal that ``ratio`` prints as: 0.7 means 7/10.
    """
    rank = max(int(_exact_rank(rows, columns, ratio)), 1)
    return rank if rank * (rows + columns) < rows * columns else None


def allocate(shapes: Mapping[str, tuple[int, int]], ratio: float | str) -> dict[str, int | None]:
    """Module name -> uniform rank, or None to keep dense.

    Args:
        shapes: module name -> (rows, columns).
        ratio: share to remove of every weight, 0..1.
    """
    return {name: upstream_rank(rows, columns, ratio) for name, (rows, columns) in shapes.items()}


def _exact_rank(rows: int, columns: int, ratio: float | str) -> Fraction:
    try:
        share = 1 - Fraction(str(ratio))
    except ValueError as error:
        raise PlanError(f"ratio {ratio}: not a number") from error
    if not 0 <= share <= 1:
        raise PlanError(f"ratio {ratio} is not a share between 0 and 1")
    return rows * columns * share / (rows + columns)
