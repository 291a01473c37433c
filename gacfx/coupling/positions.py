"""What every position along an axis belongs to: its term, walked through -> Positions.

(kv*group)*(d+d)     units 0 0 0 .. 1 1 1 ..    heads 0 0 1 1 .. 0 0 1 1 ..
width+width          units 0 1 2 .. 0 1 2 ..    a fused gate and up
"""

import numpy as np
from numpy.typing import NDArray

from gacfx.core.structures import Positions
from gacfx.coupling.terms import Kind, Term, find

Labels = NDArray[np.int64]


def positions(term: Term, unit: Term | None, head: Term | None) -> Positions | None:
    """Units and query heads along ``term``; None where one position belongs to two units.

    Args:
        term: of the axis.
        unit: atom of the units; None where there is only one, which all query heads belong to.
        head: atom of the query heads; None where each unit has one.
    """
    units, heads = _along(term, unit), _along(term, head)
    if units is None or heads is None:
        return None
    if unit is None:
        units = np.where(heads >= 0, 0, -1)
    return Positions(units, heads)


def all_of_one(size: int) -> Positions:
    """An axis that belongs to unit 0 as a whole: keys and values of multi-query attention."""
    return Positions(np.zeros(size, np.int64), np.full(size, -1, np.int64))


def _along(term: Term, atom: Term | None) -> Labels | None:
    """Element of ``atom`` at every position of ``term``, -1 where there is none."""
    term = find(term)
    if atom is not None and term is atom:
        return np.arange(term.size, dtype=np.int64)
    if atom is None or term.kind is Kind.ATOM:
        return np.full(term.size, -1, np.int64)
    parts = [_along(part, atom) for part in term.parts]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    return np.concatenate(found) if term.kind is Kind.CAT else _product(found)


def _product(parts: list[Labels]) -> Labels | None:
    """Row-major: the last one runs fastest."""
    out = np.full(1, -1, np.int64)
    for part in parts:
        if out.max() >= 0 and part.max() >= 0:
            return None
        out = np.maximum(out[:, None], part[None]).reshape(-1)
    return out
