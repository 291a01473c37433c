"""Searches: what can be asked for, what is refused and how, and bounds as text."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.allocation.choosers import SOLVERS
from gacfx.core.search import Bound, Search, Solver
from gacfx.errors import PlanError

PATTERNS = st.text("abc*[]._-0123", min_size=1)


def test_the_default_is_every_aligned_rank_solved_exactly() -> None:
    search = Search()
    assert (search.candidates, search.solver, search.value) == ("full", "core", "auto")
    assert (search.align, search.tp, search.quant, search.bounds) == (None, 1, None, ())


def test_the_paper_is_four_choices() -> None:
    assert Search.paper() == Search(value="paper", candidates="window", solver="dp", form="pair")


def test_the_names_are_those_of_what_there_is() -> None:
    assert get_args(Solver) == tuple(SOLVERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": ""}, "value '': must be the name of a value model"),
        ({"value": "a b"}, "value 'a b': must be the name of a value model"),
        ({"value": None}, "value None: must be the name of a value model"),
        ({"candidates": "some"}, "no candidates 'some'; known: full, window"),
        ({"solver": "magic"}, "no solver 'magic'; known: core, dp, ilp, cbc, highs, greedy, round"),
        ({"quant": "fp6"}, "no quant 'fp6'; known: fp8, int8, int4-g128, mxfp8, nvfp4, 2:4"),
        ({"tp": 0}, "tp 0: must be a whole number above 0"),
        ({"tp": True}, "tp True: must be a whole number above 0"),
        ({"tp": 2.0}, "tp 2.0: must be a whole number above 0"),
        ({"align": 0}, "align 0: must be a whole number above 0"),
        ({"align": -8}, "align -8: must be a whole number above 0"),
        ({"align": 8.0}, "align 8.0: must be a whole number above 0"),
        ({"window": 0}, "window 0: must be a whole number above 0"),
        ({"uniform": 1}, "uniform 1: must be True or False"),
        ({"bounds": 5}, "bounds 5: give a tuple of them"),
        ({"bounds": "*=8:16"}, "bounds '*=8:16': give a tuple of them"),
        ({"limits": 5}, "limits 5: give passes, such as ('limit-latency{share=0.9}',)"),
        ({"form": "pairs"}, "form is none of auto, pair, pivot, and no kind of decision 'pairs'"),
        ({"limits": ("",)}, "limits: '' is no pass; write limit-latency{share=0.9}"),
        ({"limits": (0.9,)}, "limits: 0.9 is no pass; write limit-latency{share=0.9}"),
        (
            {"solver": "dp", "limits": ("limit-latency{share=0.9}",)},
            "solver 'dp' knows one budget and cannot keep limit-latency{share=0.9}; take core",
        ),
        ({"gap": -1}, "gap -1: must be a finite number above 0, or None for none"),
        ({"gap": True}, "gap True: must be a finite number above 0"),
        ({"time_limit": 0}, "time_limit 0: must be a finite number above 0, or None for none"),
        ({"time_limit": float("inf")}, "time_limit inf: must be a finite number above 0"),
        ({"time_limit": "9"}, "time_limit '9': must be a finite number above 0"),
        ({"solver": "ilp", "gap": 0.1}, "solver 'ilp' cannot stop at a gap; take core"),
        ({"solver": "dp", "time_limit": 9}, "solver 'dp' knows no time limit; take core or ilp"),
        ({"solver": "greedy", "uniform": True}, "solver 'greedy' cannot hold layers to one rank"),
        ({"solver": "round", "uniform": True}, "solver 'round' cannot hold layers to one rank"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Search(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (("", 8, 16), "bound '': the pattern must be text"),
        ((3, 8, 16), "bound 3: the pattern must be text"),
        (("*.q k", 8, 16), "bound '*.q k': the pattern must be text without blanks"),
        (("*.q", 16, 8), "bound *.q=16:8: ranks are whole numbers with 1 <= LEAST <= MOST"),
        (("*.q", 0, 8), "bound *.q=0:8: ranks are"),
        (("*.q", 1.5, 8), "bound *.q=1.5:8: ranks are"),
        (("*.q", 8, 16, 24), "bound ('*.q', 8, 16, 24): give (pattern, least, most)"),
        (5, "bound 5: give (pattern, least, most)"),
        ("*.q", "bound '*.q': write PATTERN=LEAST:MOST"),
    ],
)
def test_a_bound_that_is_none_is_refused(bound: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Search(bounds=(bound,))
    assert str(caught.value).startswith(message)


def test_bounds_may_be_plain_tuples_or_text() -> None:
    search = Search(bounds=(("*.q", 8, 16), ("*.k", 8), "*.v=:16"))  # type: ignore[arg-type]
    assert search.bounds == (Bound("*.q", 8, 16), Bound("*.k", 8), Bound("*.v", 1, 16))


@given(PATTERNS, st.integers(1, 99), st.none() | st.integers(0, 99))
def test_a_bound_is_read_back_as_it_is_written(pattern: str, least: int, more: int | None) -> None:
    bound = Bound(pattern, least, None if more is None else least + more)
    assert Bound.parse(str(bound)) == bound


@pytest.mark.parametrize("text", ["", "=", "*.q=", "*.q=8", "*.q=a:b", "=8:16", "*.q=8:16:24"])
def test_text_that_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="^bound "):
        Bound.parse(text)


def test_a_pattern_may_hold_an_equals_sign_nowhere() -> None:
    with pytest.raises(PlanError, match="without blanks or any of ;={}"):
        Bound.parse("a=b=8:16")


def test_a_bound_holds_its_ends() -> None:
    bound = Bound("*", 8, 16)
    assert [rank for rank in range(30) if bound.holds(rank)] == list(range(8, 17))
    assert Bound("*", 8).holds(10**9)


def test_one_limit_may_be_given_without_a_tuple() -> None:
    assert Search(limits="limit-latency").limits == ("limit-latency",)  # type: ignore[arg-type]


def test_a_changed_search_is_checked_again() -> None:
    with pytest.raises(PlanError, match="one budget"):
        replace(Search.paper(), limits=("limit-latency",))
