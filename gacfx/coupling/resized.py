"""Axes after the sizes of some atoms have changed: which ones do, and where their borders lie.

    (d2*d3)+d2+d4    6 + 2 + 5 rows, borders at 6 and 8
    d3: 3 -> 2       4 + 2 + 5 rows, borders at 4 and 6

How long such an axis is says :func:`gacfx.coupling.terms.resized`.
"""

from collections.abc import Mapping

from gacfx.coupling.terms import Conflict, Kind, Term, atoms, find, resized

Sizes = Mapping[Term, int]
"""Atom, as ``find`` gives it -> its new size."""


def changes(term: Term, sizes: Sizes) -> bool:
    """Anything in ``term`` has a new size."""
    return any(atom in sizes for atom in atoms(term))


def border(term: Term, at: int, sizes: Sizes) -> int:
    """Where the border before element ``at`` of ``term`` comes to lie.

    Args:
        term: of a finished interpretation; terms are refined while it runs.
        at: an offset from the start of the axis, its old size at most.
        sizes: of the atoms that change.

    Raises:
        Conflict: the border cuts through something that changes, or lies outside.
    """
    term = find(term)
    if not 0 <= at <= term.size:
        raise Conflict(f"a border at {at} is outside of a size of {term.size}")
    if at == 0 or not changes(term, sizes):
        return at
    if at == term.size:
        return resized(term, sizes)
    if term.kind is not Kind.CAT:
        raise Conflict(f"a border at {at} cuts through a size of {term.size} that changes")
    start = new = 0
    for part in term.parts:
        if at <= start + part.size:
            break
        start, new = start + part.size, new + resized(part, sizes)
    return new + border(part, at - start, sizes)
