"""Sensitivity-based truncation rank searching (STRS): ASVD's own ranks from a table of losses.

Of each weight the sensitivity at six shares of its parameters is known: the loss of the model with
that weight alone replaced, or a proxy of it. All entries stand in one list, the most sensitive
first. A cut drops the head of the list, and each weight takes the smallest share among its entries
behind the cut; one that has none left stays dense. The later the cut, the more parameters are kept:
the last cut that meets the budget is taken. Source: Yuan et al. 2023 (arXiv 2312.05821).

The paper sorts by perplexity, exp(loss), which has the same order.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

from gacfx.compressors.allocate import upstream_rank
from gacfx.errors import InfeasibleBudget

SHARES = tuple(Fraction(tenths, 10) for tenths in range(4, 10))
"""Of the parameters of a weight that its factors have."""

Shapes = Mapping[str, tuple[int, int]]
Ranks = dict[str, int | None]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One weight at one share."""

    module: str
    place: int
    """Of its share in :data:`SHARES`."""


def ranks_of(rows: int, columns: int) -> tuple[int | None, ...]:
    """Rank at each share, floor(share M N / (M + N)), at least 1; None where it saves nothing."""
    return tuple(upstream_rank(rows, columns, str(1 - share)) for share in SHARES)


def strs(shapes: Shapes, table: Mapping[str, Sequence[float]], limit_params: int) -> Ranks:
    """Module -> rank, or None to keep it dense.

    Args:
        shapes: module -> (rows, columns).
        table: module -> sensitivity at each of :data:`SHARES`; entries that are not finite are
            never taken, and a module that is missing stays dense.
        limit_params: that may be kept in all.

    Raises:
        InfeasibleBudget: the smallest shares of all weights are still more than that.
    """
    ranks = {name: ranks_of(*shape) for name, shape in shapes.items()}
    entries = _sorted(ranks, table)

    def at(cut: int) -> Ranks:
        least = dict[str, int]()
        for entry in entries[cut:]:
            least[entry.module] = min(entry.place, least.get(entry.module, entry.place))
        return {name: ranks[name][least[name]] if name in least else None for name in shapes}

    def kept(cut: int) -> int:
        return params(shapes, at(cut))

    if (needed := kept(0)) > limit_params:
        raise InfeasibleBudget(
            f"its table of {len(entries)} shares goes down to {needed:,} parameters, and "
            f"{limit_params:,} may remain; remove less, or take allocation=uniform",
            needed=needed,
            budget=limit_params,
        )
    # The first cut keeps enough, so there is one before the first that keeps too much.
    return at(bisect_right(range(len(entries) + 1), limit_params, key=kept) - 1)


def params(shapes: Shapes, ranks: Ranks) -> int:
    """Parameters of all weights at these ranks."""
    return sum(
        rows * columns if (rank := ranks[name]) is None else rank * (rows + columns)
        for name, (rows, columns) in shapes.items()
    )


def _sorted(
    ranks: Mapping[str, Sequence[int | None]], table: Mapping[str, Sequence[float]]
) -> list[_Entry]:
    """Entries that save something, the most sensitive first; of equal ones the smaller share, and
    then the order of the modules."""
    found = [
        (-table[module][place], place, number, _Entry(module, place))
        for number, (module, own) in enumerate(ranks.items())
        for place, rank in enumerate(own)
        if module in table and rank is not None and isfinite(table[module][place])
    ]
    return [entry for *_, entry in sorted(found, key=lambda row: row[:3])]
