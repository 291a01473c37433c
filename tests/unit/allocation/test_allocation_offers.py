"""Offers: every candidate keeps to the step in all its sizes, and says why there is none."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.allocation.allocate import offer
from gacfx.allocation.offers import Offers
from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, Copy, Decision, LowRank, Pivot
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.search import Bound, Form, Quant, Search, Solver
from gacfx.errors import PassError, PlanError
from gacfx.hardware.contracts import CONTRACTS, step_of
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from tests.unit import made_curves

SIZES = st.integers(1, 320)
PAIR = ("low-rank",)


def curve(rows: int, columns: int, failed: str = "") -> Curve:
    return Curve("layers.0.a", rows, columns, np.zeros(min(rows, columns) + 1), "fisher", failed)


def ranks(found: tuple[Decision, ...], kind: type[Decision]) -> list[int | None]:
    """Ranks of one kind among candidates."""
    return [each.rank for each in found if isinstance(each, kind)]


@given(SIZES, SIZES, st.integers(1, 48), st.sampled_from(["", *CONTRACTS]))
def test_every_size_of_every_candidate_is_a_multiple_of_the_step(
    rows: int, columns: int, align: int, quant: str
) -> None:
    offers = Offers(align=align, quant=quant)
    found, why = offers.candidates(curve(rows, columns))
    assert offers.step == step_of(align, 1, offers.contract) and offers.step % align == 0
    assert found[-1] is DENSE and bool(why) == (found == (DENSE,))
    for each in found[:-1]:
        sizes = each.sizes(rows, columns)
        assert sizes and all(size % offers.step == 0 and size > 0 for size in sizes)
        assert each.problem(rows, columns) == ""
        assert each.params(rows, columns) < rows * columns
    assert len({each.label for each in found}) == len(found)


@given(SIZES, SIZES, st.integers(1, 16), st.sampled_from([*CONTRACTS]))
def test_every_product_of_every_candidate_is_legal_in_the_format(
    rows: int, columns: int, align: int, quant: Quant
) -> None:
    rows, columns = 16 * rows, 16 * columns  # most odd ones cannot be stored at all
    contract = CONTRACTS[quant]
    found, why = Offers(align=align, quant=quant).candidates(curve(rows, columns))
    assert why or len(found) > 1
    for each in found[:-1]:
        for step in each.work(rows, columns, False):
            assert isinstance(step, Copy) or step.k % contract.k == step.n % contract.n == 0


@given(SIZES, SIZES, st.integers(1, 48))
def test_pivots_are_offered_where_the_short_side_is_a_multiple(
    rows: int, columns: int, align: int
) -> None:
    short = min(rows, columns)
    found, _ = Offers(align=align).candidates(curve(rows, columns))
    assert bool(ranks(found, Pivot)) == (short % align == 0 and short > align)
    alone, why = Offers(align=align, kinds=("pivot",)).candidates(curve(rows, columns))
    assert ranks(alone, Pivot) == ranks(found, Pivot)
    if short % align:
        assert why == (
            f"no rank in steps of {align} (align {align}) leaves an aligned rest of the short "
            f"side, {short}"
        )


@pytest.mark.parametrize("solver", ["greedy", "round"])
def test_rules_of_thumb_are_offered_pairs_only(solver: Solver) -> None:
    search = Search(solver=solver)
    assert (search.kinds, Offers.of(search, 8, "svd").kinds) == (PAIR, PAIR)
    assert Search(solver=solver, form="pair").kinds == PAIR


def test_devices_that_share_a_rank_are_offered_pairs_only() -> None:
    search = Search(tp=2)
    offers = Offers.of(search, 8, "svd")
    assert (search.kinds, offers.kinds, offers.step) == (PAIR, PAIR, 16)
    assert ranks(offers.candidates(curve(64, 64))[0], Pivot) == []
    assert Search(tp=1).kinds == ("low-rank", "pivot")


@pytest.mark.parametrize("quant", ["int4-g128", "nvfp4"])
def test_formats_of_four_bits_are_offered_pairs_unless_pivots_are_named(quant: Quant) -> None:
    search = Search(quant=quant)
    swept = SweepCandidates(quant=quant, form="auto").offers().kinds
    assert search.kinds == Offers.of(search, 8, "svd").kinds == swept == PAIR
    assert Search(quant=quant, form="pivot").kinds == ("pivot",)
    assert Search(quant="int8").kinds == ("low-rank", "pivot")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tp": 2}, "tp 2 splits ranks, and pivots cannot be split"),
        ({"solver": "greedy"}, "solver 'greedy' starts from the rank of a pair"),
        ({"solver": "round"}, "solver 'round' starts from the rank of a pair"),
    ],
)
def test_an_explicit_pivot_there_is_refused_in_one_line(options: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError) as caught:
        Search(form="pivot", **options)
    assert str(caught.value) == f"form 'pivot': {why}; take form 'pair'"


@pytest.mark.parametrize("kinds", [("pivot",), ("low-rank", "pivot"), ("dense",)])
def test_nobody_lists_pivots_for_several_devices(kinds: tuple[str, ...]) -> None:
    with pytest.raises(
        PassError, match="^sweep-candidates: tp 2 splits ranks, .* take form 'pair'$"
    ):
        Offers(tp=2, kinds=kinds)


@pytest.mark.parametrize(
    ("form", "kinds"),
    [("auto", ("low-rank", "pivot")), ("pair", PAIR), ("pivot", ("pivot",)), ("dense", ("dense",))],
)
def test_a_form_is_a_list_of_kinds(form: Form, kinds: tuple[str, ...]) -> None:
    assert Search(form=form).kinds == kinds


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(PlanError, match="no kind of decision 'monarch'"):
        Offers(kinds=("monarch",))


@pytest.mark.parametrize("odd", [None, 3, True, ["pair"], ""])
def test_a_form_that_is_no_name_is_refused(odd: Any) -> None:
    with pytest.raises(PlanError, match="no kind of decision"):
        Search(form=odd)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("dense", r"no rank in steps of 8 \(align 8\) is dense$"),
        (
            "pivot-in-order",
            r"is pivot-in-order from the start: pivots become it; take form 'pivot'$",
        ),
    ],
)
def test_a_kind_that_is_never_offered_says_so(kind: str, why: str) -> None:
    found, reason = Offers(kinds=(kind,)).candidates(curve(64, 64))
    assert found == (DENSE,) and re.search(why, reason)


# -- bounds --------------------------------------------------------------------------------------


@given(SIZES, SIZES, st.integers(1, 40), st.integers(1, 40), st.none() | st.integers(0, 99))
def test_bounds_hold_ranks_of_all_forms(
    rows: int, columns: int, align: int, least: int, more: int | None
) -> None:
    most, full = None if more is None else least + more, min(rows, columns)
    free, _ = Offers(align=align).candidates(curve(rows, columns))
    bounded = Offers(align=align, bounds=(Bound("*.a", least, most), Bound("*.b", 1, 1)))
    inside = tuple(
        each
        for each in free
        if least <= (full if each.rank is None else each.rank) <= (most or 10**9)
    )
    if inside:
        assert bounded.candidates(curve(rows, columns))[0] == inside
    else:
        with pytest.raises(PassError, match=r"^sweep-candidates: layers.0.a: no candidate is left"):
            bounded.candidates(curve(rows, columns))


def test_a_bound_that_speaks_of_no_weight_is_refused() -> None:
    with pytest.raises(PassError, match="bound other=8:16 matches no targeted weight"):
        offer(made_curves.curves(), Offers(bounds=(Bound("other", 8, 16),)))


# -- windows -------------------------------------------------------------------------------------


@given(SIZES, SIZES, st.integers(1, 16), st.integers(1, 9), st.floats(0, 300))
def test_a_window_of_each_form_is_the_nearest_below_and_above(
    rows: int, columns: int, align: int, size: int, wanted: float
) -> None:
    free, _ = Offers(align=align).candidates(curve(rows, columns))
    found, _ = Offers(align=align, window=size).candidates(curve(rows, columns), wanted)
    budget = wanted * (rows + columns)
    for kind in (LowRank, Pivot):
        every = [each for each in free if isinstance(each, kind)]
        kept = [each for each in found if isinstance(each, kind)]
        assert len(kept) == min(size, len(every))
        if not kept:
            continue
        start = every.index(kept[0])
        assert every[start : start + len(kept)] == kept
        left, right = every[:start], every[start + len(kept) :]
        below = [each for each in kept if each.params(rows, columns) <= budget]
        # Half of the window lies below, unless an end of the list is reached.
        if left and right:
            assert len(below) == (size + 1) // 2
    assert found[-1] is DENSE


def test_a_window_on_a_weight_without_wanted_rank_is_refused() -> None:
    with pytest.raises(PassError, match="layers.0.a: a window needs wanted ranks; bind them"):
        Offers(window=2).candidates(curve(64, 64))


def test_the_paper_offers_no_dense_weight_out_of_reach() -> None:
    offers = Offers.of(Search.paper(), 8, "svd")
    assert (offers.dense, offers.window, offers.kinds) == (False, 8, PAIR)
    found, _ = offers.candidates(curve(4096, 4096), 1000.0)
    assert DENSE not in found and len(found) == 8
    assert DENSE in offers.candidates(curve(4096, 4096), 2047.0)[0]
    assert Offers.of(
        Search(value="paper"), 8, "svd"
    ).dense  # no window, so the dense weight is offered


# -- weights that lack a form --------------------------------------------------------------------


def test_weights_alike_share_their_candidates_unless_one_lacks_a_form() -> None:
    curves = made_curves.curves()
    case = offer(curves, Offers(align=1))
    found = case.offered.candidates
    assert found is not None
    assert found["layers.0.a"] is found["layers.0.b"] and case.reasons == {}
    case = offer(curves, Offers(align=1), without={"layers.0.b": {"pivot": "too large"}})
    found = case.offered.candidates
    assert found is not None
    assert ranks(found["layers.0.a"], Pivot) == [1, 2, 3, 4, 5, 6, 7]
    assert found["layers.0.b"] == (LowRank(1), LowRank(2), LowRank(3), DENSE)
    assert case.reasons == {} and case.lacks == {"layers.0.b": {"pivot": "too large"}}


def test_all_reasons_of_a_weight_are_said() -> None:
    lacks = {"layers.0.b": {"low-rank": "overflow"}}
    case = offer(made_curves.curves(), Offers(align=3), without=lacks)
    assert case.offered.candidates is not None
    assert case.offered.candidates["layers.0.b"] == (DENSE,)
    assert case.reasons["layers.0.b"] == (
        "no rank in steps of 3 (align 3) leaves an aligned rest of the short side, 8; "
        "low-rank: overflow"
    )


def test_fewer_kinds_change_nothing_else() -> None:
    offers = Offers(align=4, window=3, bounds=(Bound("*", 4),))
    assert offers.without() == offers
    fewer = offers.without("pivot", "monarch")
    assert fewer == Offers(align=4, window=3, bounds=(Bound("*", 4),), kinds=PAIR)
    assert Offers(tp=2, kinds=PAIR).without("low-rank").kinds == ()


@pytest.mark.parametrize("quant", CONTRACTS)
def test_a_weight_that_a_format_cannot_store_has_no_form_in_it(quant: str) -> None:
    found, why = Offers(align=1, quant=quant).candidates(curve(255, 255))
    assert found == (DENSE,) and why.startswith(f"{quant} cannot store it: K=255")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": 0}, "align must be at least 1, not 0"),
        ({"tp": 0}, "tp must be at least 1, not 0"),
        ({"window": -1}, "window must be at least 0, not -1"),
        ({"quant": "fp6"}, "no format 'fp6'; known: fp8"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassError, match=f"^sweep-candidates: {message}"):
        Offers(**options)


def test_a_window_of_groups_stands_around_as_many_parameters() -> None:
    """12.8 latents of two groups are a rank of 6.4 for each, of 32 + 2 x 64 parameters a rank."""
    known = Curve("layers.0.k", 32, 64, np.zeros(33), "fisher", groups=2)
    offers = Offers(align=1, kinds=("grouped-low-rank",), window=3)
    found, reason = offers.candidates(known, 12.8)
    assert found == (*(GroupedLowRank(2, rank) for rank in (5, 6, 7)), DENSE) and not reason
    none, why = offers.candidates(replace(known, groups=0), 12.8)
    assert none == (DENSE,) and "its groups are not known" in why
