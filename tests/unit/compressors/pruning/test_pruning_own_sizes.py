"""Sizes that a method of pruning takes by itself: shares, thresholds, budgets met from below."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.compressors.pruning.own_sizes import Scope, Units, own_sizes
from gacfx.errors import InfeasibleBudget


def units(name: str, count: int, params: int, seed: int = 0, scale: float = 1.0) -> Units:
    scores = np.sort(np.random.default_rng(seed).exponential(size=count)) * scale
    return Units(name, count, params, scores)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Units], int]:
    sizes = draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 50)), max_size=6))
    found = [units(str(at), *size, seed=at) for at, size in enumerate(sizes)]
    most = sum((one.count - 1) * one.params for one in found)
    return found, draw(st.integers(0, most))


def removed(found: list[Units], sizes: dict[str, int]) -> int:
    return sum((one.count - sizes[one.name]) * one.params for one in found)


@given(cases(), st.sampled_from(["local", "global"]))
@settings(max_examples=300, deadline=None)
def test_enough_goes_and_one_unit_less_would_not_be_enough(
    case: tuple[list[Units], int], scope: Scope
) -> None:
    found, gone = case
    sizes = own_sizes(found, gone, scope)
    assert [*sizes] == [one.name for one in found]
    assert all(1 <= sizes[one.name] <= one.count for one in found)
    over = removed(found, sizes) - gone
    assert over >= 0
    last = [one.params for one in found if sizes[one.name] < one.count]
    if scope == "global" and last:
        assert over < max(last)


@given(cases())
@settings(max_examples=300, deadline=None)
def test_no_further_unit_fits_and_like_structures_lose_alike(
    case: tuple[list[Units], int],
) -> None:
    found, gone = case
    sizes = own_sizes(found, gone, "local")
    over = removed(found, sizes) - gone
    assert all(over < one.params for one in found if sizes[one.name] < one.count)
    for one in found:
        like = [x for x in found if (x.count, x.params) == (one.count, one.params)]
        assert all(abs(sizes[x.name] - sizes[one.name]) <= 1 for x in like)


@given(cases())
@settings(max_examples=300, deadline=None)
def test_nobody_loses_more_than_a_share_that_is_enough(case: tuple[list[Units], int]) -> None:
    found, gone = case
    sizes = own_sizes(found, gone, "local")
    free = [one for one in found if sizes[one.name] > 1]
    shares = [Fraction(one.count - sizes[one.name], one.count) for one in free]
    share = max(shares, default=Fraction(0))
    # A share that is smaller by one unit of everybody would remove too little.
    less = [max(min(int(share * one.count), one.count - 1) - 1, 0) for one in found]
    assert sum(n * one.params for n, one in zip(less, found, strict=True)) <= gone


def test_a_share_is_that_of_every_structure() -> None:
    found = [units("a", 8, 100), units("b", 100, 10), units("c", 40, 10)]
    assert own_sizes(found, (8 * 100 + 100 * 10 + 40 * 10) // 4, "local") == {
        "a": 6,
        "b": 75,
        "c": 30,
    }


def test_units_that_are_not_needed_come_back_the_largest_first() -> None:
    found = [units("a", 4, 100), units("b", 4, 100), units("c", 8, 10)]
    # At a quarter 100 + 100 + 20 go; 110 are enough without the unit of a and one of c.
    assert own_sizes(found, 110, "local") == {"a": 4, "b": 3, "c": 7}
    assert own_sizes(found, 111, "local") == {"a": 4, "b": 3, "c": 6}
    assert own_sizes(found, 220, "local") == {"a": 3, "b": 3, "c": 6}


def test_channels_make_up_for_the_steps_of_heads() -> None:
    found = [units("heads", 4, 100), units("channels", 100, 10)]
    # A quarter of both is 350; less than a head too much comes back as channels.
    assert own_sizes(found, 265, "local") == {"heads": 3, "channels": 83}
    assert own_sizes(found, 250, "local") == {"heads": 4, "channels": 75}
    assert own_sizes(found, 251, "local") == {"heads": 3, "channels": 84}


def test_a_threshold_counts_scores_per_parameter() -> None:
    cheap = Units("channels", 4, 10, np.array([1.0, 2.0, 3.0, 4.0]))
    heads = Units("heads", 4, 1000, np.array([5.0, 6.0, 7.0, 8.0]))
    # Each head scores more than any channel, and less for each of its parameters.
    assert own_sizes([cheap, heads], 2000, "global") == {"channels": 4, "heads": 2}
    assert own_sizes([cheap, heads], 3010, "global") == {"channels": 3, "heads": 1}


def test_scopes_differ_where_one_layer_matters_less() -> None:
    found = [units("dull", 50, 10, scale=1e-6), units("keen", 50, 10, scale=1.0)]
    assert own_sizes(found, 400, "local") == {"dull": 30, "keen": 30}
    assert own_sizes(found, 400, "global") == {"dull": 10, "keen": 50}


@pytest.mark.parametrize("scope", ["local", "global"])
def test_what_cannot_go_is_told_with_both_numbers(scope: Scope) -> None:
    with pytest.raises(InfeasibleBudget, match="can lose 70 parameters, 71 shall go") as caught:
        own_sizes([units("a", 8, 10)], 71, scope)
    assert (caught.value.needed, caught.value.budget) == (71, 70)
    assert own_sizes([units("a", 8, 10)], 70, scope) == {"a": 1}
    with pytest.raises(InfeasibleBudget, match="can lose 0"):
        own_sizes([], 1, scope)
    assert own_sizes([], 0, scope) == {}
