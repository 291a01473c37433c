"""The term algebra: refinement keeps sizes and meaning, unification identifies indices."""

import math
from itertools import chain, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.coupling.terms import (
    Conflict,
    Kind,
    Term,
    Terms,
    atoms,
    count_times,
    find,
    freeze,
    join,
    mix,
    resized,
    to_text,
)

Label = tuple[tuple[int, int], ...]


def labels(term: Term) -> list[Label]:
    """What every index of an axis means: one (atom, index in it) pair for each factor."""
    term = find(term)
    if term.kind is Kind.ATOM:
        return [((id(term), at),) for at in range(term.size)] if term.size != 1 else [()]
    parts = [labels(part) for part in term.parts]
    if term.kind is Kind.CAT:
        return list(chain.from_iterable(parts))
    return [tuple(chain.from_iterable(combined)) for combined in product(*parts)]


def text(*terms: Term) -> str:
    """Terms with their atoms written as sizes, frozen ones with ``!``."""
    return " | ".join(to_text(t, lambda a: f"{a.size}{'!' * bool(a.frozen)}") for t in terms)


@st.composite
def compositions(draw: st.DrawFn, total: int) -> list[int]:
    """Positive sizes that add up to ``total``."""
    cuts = draw(st.sets(st.integers(1, total - 1), max_size=3)) if total > 1 else set()
    edges = [0, *sorted(cuts), total]
    return [end - start for start, end in pairwise(edges)]


@st.composite
def factorisations(draw: st.DrawFn, total: int) -> list[int]:
    """Sizes whose product is ``total``."""
    sizes: list[int] = []
    while total > 1 and len(sizes) < 3:
        size = draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
        sizes.append(size)
        total //= size
    return [*sizes, total]


@st.composite
def structured(draw: st.DrawFn, pool: list[Term], size: int, depth: int = 2) -> Term:
    """A random term of that size; atoms come from the pool, so one may show several times."""
    shape = draw(st.sampled_from(["atom", "cat", "product"])) if depth and size > 1 else "atom"
    if shape == "atom":
        fresh = Term(size, frozen=draw(st.sampled_from(["", "", "", "for a reason"])))
        pool.append(draw(st.sampled_from([fresh, *(t for t in pool if t.size == size)])))
        return pool[-1]
    sizes = draw(compositions(size) if shape == "cat" else factorisations(size))
    parts = [draw(structured(pool, n, depth - 1)) for n in sizes]
    return join(Kind.CAT if shape == "cat" else Kind.PRODUCT, parts)


def all_frozen(*some: Term) -> bool:
    return all(atom.frozen for term in some for atom in atoms(term) if atom.size > 1)


SIZES = st.sampled_from([1, 2, 6, 7, 12, 16, 24, 36])


@given(st.data(), SIZES)
def test_split_keeps_sizes_and_meaning(data: st.DataObject, size: int) -> None:
    terms = Terms()
    term = data.draw(structured([], size))
    for _ in range(2):
        sizes = data.draw(compositions(size))
        parts = terms.split(term, sizes)
        assert [part.size for part in parts] == sizes
        assert sum(atom.size for part in parts for atom in atoms(part)) <= size
        if not terms.remarks:
            assert labels(join(Kind.CAT, parts)) == labels(term)
        elif not all_frozen(term):
            # Only a product inside the concatenation was given up.
            assert find(term).kind is Kind.CAT


@given(st.data(), SIZES)
def test_view_keeps_sizes_and_meaning(data: st.DataObject, size: int) -> None:
    terms = Terms()
    pool: list[Term] = []
    axes = [data.draw(structured(pool, n)) for n in data.draw(factorisations(size))]
    for _ in range(2):
        sizes = data.draw(factorisations(size))
        out = terms.view(axes, sizes)
        assert [term.size for term in out] == sizes
        assert math.prod(term.size for term in out) == size
        if terms.remarks:
            assert all_frozen(*axes, *out)
            return
        assert labels(join(Kind.PRODUCT, out)) == labels(join(Kind.PRODUCT, axes))


@given(st.data(), SIZES)
def test_unify_identifies_every_index_or_freezes(data: st.DataObject, size: int) -> None:
    terms = Terms()
    pool: list[Term] = []
    a, b = data.draw(structured(pool, size)), data.draw(structured(pool, size))
    once_frozen = [atom for atom in pool if atom.frozen]
    known = terms.unify(a, b)
    assert known.size == a.size == b.size == size
    assert all_frozen(*once_frozen)
    if not terms.remarks:
        assert labels(a) == labels(b) == labels(known)


@given(st.data(), SIZES)
def test_times_is_the_change_of_size_for_one_more_unit(data: st.DataObject, size: int) -> None:
    term = data.draw(structured([], size))
    shown = [pair for label in labels(term) for pair in label]
    for atom, times in count_times(term).items():
        if atom.size > 1:
            assert times == sum(pair == (id(atom), 0) for pair in shown)


def test_different_views_of_an_axis_are_refined_to_common_factors() -> None:
    terms, axis = Terms(), Term(48)
    by_head = terms.view([axis], [6, 8])
    by_group = terms.view([axis], [2, 3, 8])
    assert (text(axis), text(*by_head)) == ("(2*3)*8", "2*3 | 8")
    assert by_group[2] is by_head[1]
    assert not terms.remarks


def test_different_cuts_of_an_axis_are_refined_to_common_parts() -> None:
    terms, axis = Terms(), Term(10)
    left = terms.split(axis, [4, 6])
    right = terms.split(axis, [7, 3])
    assert (text(axis), text(*left), text(*right)) == ("4+3+3", "4 | 3+3", "4+3 | 3")


def test_unify_of_swapped_halves_makes_the_halves_one() -> None:
    terms, axis = Terms(), Term(8)
    low, high = terms.split(axis, [4, 4])
    terms.unify(axis, join(Kind.CAT, [high, low]))
    assert find(low) is find(high)
    assert count_times(axis) == {find(low): 2}


def test_freezing_reaches_everything_known_and_everything_learnt_later() -> None:
    terms, axis, early, late = Terms(), Term(24), Term(24), Term(24)
    terms.unify(axis, early)
    freeze([axis], "table")
    terms.unify(late, axis)
    parts = terms.view([late], [4, 6])
    assert {atom.frozen for t in (early, late, *parts) for atom in atoms(t)} == {"table"}


def test_freezing_one_part_leaves_the_other_free() -> None:
    terms, axis = Terms(), Term(10)
    rope, _ = terms.split(axis, [4, 6])
    freeze([rope], "table")
    assert text(axis) == "4!+6"


def test_the_first_reason_is_kept() -> None:
    axis = Term(4, "first")
    freeze([axis], "second")
    assert axis.frozen == "first"


def test_size_one_is_a_constant_and_links_nothing() -> None:
    terms, a, b = Terms(), Term(1), Term(1, "frozen")
    assert terms.unify(a, b) is a
    assert find(b) is b
    assert not a.frozen


def test_broadcast_aligns_at_the_right() -> None:
    terms, wide, table = Terms(), Term(8), Term(8, "table")
    out = terms.broadcast((Term(5), Term(3), wide), (Term(1), table))
    assert text(*out) == "5 | 3 | 8!"
    assert terms.broadcast() == ()


def test_conflicts_raise() -> None:
    terms = Terms()
    with pytest.raises(Conflict, match="size 4 cannot be the same as size 6"):
        terms.unify(Term(4), Term(6))
    with pytest.raises(Conflict, match=r"size 10 cannot be split into \[4, 4\]"):
        terms.split(Term(10), [4, 4])
    with pytest.raises(Conflict, match=r"\[10\] cannot be viewed as \[4, 2\]"):
        terms.view([Term(10)], [4, 2])
    with pytest.raises(Conflict, match="size 4 cannot be the same as size 6"):
        terms.broadcast((Term(4),), (Term(6),))


def test_a_product_that_meets_a_concatenation_freezes_both() -> None:
    terms, a, b = Terms(), Term(12), Term(12)
    terms.view([a], [3, 4])
    terms.split(b, [5, 7])
    terms.unify(a, b)
    assert all_frozen(a, b)
    assert terms.remarks == ["product meets concatenation: [12, 12] -> [12]"]


def test_views_across_factors_freeze() -> None:
    terms, a, b = Terms(), Term(4), Term(9)
    assert text(*terms.view([a, b], [6, 6])) == "6! | 6!"
    assert all_frozen(a, b)
    assert terms.remarks == ["irregular view: [4, 9] -> [6, 6]"]


def test_cutting_a_product_freezes_it() -> None:
    terms, axis = Terms(), Term(12)
    terms.view([axis], [3, 4])
    assert text(*terms.split(axis, [5, 7])) == "5! | 7!"
    assert all_frozen(axis)


def test_join_drops_neutral_sizes_and_flattens() -> None:
    a, b = Term(3), Term(4)
    assert join(Kind.PRODUCT, [a]) is a
    assert join(Kind.PRODUCT, []).size == 1
    assert join(Kind.CAT, []).size == 0
    inner = join(Kind.CAT, [a, Term(0), b])
    assert text(join(Kind.CAT, [inner, Term(1)])) == "3+4+1"
    assert text(join(Kind.PRODUCT, [inner, Term(1), a])) == "(3+4)*3"


def test_sizes_follow_the_atoms_that_shrink() -> None:
    heads, group, width = Term(4), Term(3), Term(8)
    axis = join(Kind.CAT, [join(Kind.PRODUCT, [heads, group, width]), heads, Term(5)])
    assert resized(axis, {}) == axis.size == 4 * 3 * 8 + 4 + 5
    assert resized(axis, {heads: 2}) == 2 * 3 * 8 + 2 + 5
    assert resized(axis, {heads: 1, group: 2, width: 1}) == 2 + 1 + 5


def test_what_is_averaged_over_stays_known_through_cuts_and_links() -> None:
    terms, axis, other, whole = Terms(), Term(12), Term(3), Term(12)
    mix([axis], "averaged")
    (rows, columns) = terms.view([axis], [3, 4])
    terms.unify(rows, other)
    terms.unify(whole, axis)
    assert {atom.mixed for term in (rows, columns, other, whole) for atom in atoms(term)} == {
        "averaged"
    }
    assert not any(atom.frozen for atom in atoms(axis))
