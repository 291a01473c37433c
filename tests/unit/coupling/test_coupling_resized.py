"""Where the borders of an axis come to lie when sizes change."""

import pytest

from gacfx.coupling.resized import border, changes
from gacfx.coupling.terms import Conflict, Kind, Term, Terms, atoms, find, join, resized


def grouped() -> tuple[Term, dict[str, Term]]:
    """(kv*group*8) + (kv*8) + (kv*8) + 5 rows: a fused projection of 2 x 3 query heads."""
    made = {"kv": Term(2), "group": Term(3), "width": Term(8), "tail": Term(5)}
    one = join(Kind.PRODUCT, [made["kv"], made["width"]])
    many = join(Kind.PRODUCT, [made["kv"], made["group"], made["width"]])
    return join(Kind.CAT, [many, one, one, made["tail"]]), made


def test_borders_move_with_the_parts_before_them() -> None:
    axis, made = grouped()
    sizes = {made["group"]: 2}
    assert [border(axis, at, sizes) for at in (0, 48, 64, 80, 85)] == [0, 32, 48, 64, 69]
    assert resized(axis, sizes) == 69


def test_both_factors_of_a_product_count() -> None:
    axis, made = grouped()
    sizes = {made["group"]: 2, made["kv"]: 1}
    assert [border(axis, at, sizes) for at in (0, 48, 64, 80, 85)] == [0, 16, 24, 32, 37]


def test_a_border_inside_a_part_that_stays_moves_with_the_part() -> None:
    axis, made = grouped()
    assert border(axis, 82, {made["kv"]: 1}) == 42


def test_a_border_that_cuts_what_changes_is_refused() -> None:
    axis, made = grouped()
    for at, sizes in ((8, {made["kv"]: 1}), (81, {made["tail"]: 2})):
        with pytest.raises(Conflict, match="cuts through a size of (48|5) that changes"):
            border(axis, at, sizes)


def test_a_border_outside_is_refused() -> None:
    axis, made = grouped()
    for at in (-1, 86):
        with pytest.raises(Conflict, match=f"a border at {at} is outside of a size of 85"):
            border(axis, at, {made["kv"]: 1})


def test_nothing_moves_where_nothing_changes() -> None:
    axis, _ = grouped()
    stranger = Term(4)
    assert not changes(axis, {stranger: 2})
    assert [border(axis, at, {stranger: 2}) for at in range(86)] == list(range(86))


def test_terms_that_were_linked_change_together() -> None:
    terms, a, b = Terms(), Term(6), Term(6)
    terms.unify(a, b)
    joined = join(Kind.CAT, [a, Term(4), b])
    sizes = {find(a): 5}
    assert changes(b, sizes)
    assert [border(joined, at, sizes) for at in (6, 10, 16)] == [5, 9, 14]


def test_an_axis_that_was_cut_later_has_its_new_borders() -> None:
    terms, axis = Terms(), Term(30)
    low, high = terms.split(axis, [10, 20])
    (first, _) = terms.split(high, [8, 12])
    assert list(atoms(axis)) == [low, first, find(high).parts[1]]
    sizes = {find(first): 3}
    assert [border(axis, at, sizes) for at in (10, 18, 30)] == [10, 13, 25]
