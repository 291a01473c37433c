"""ASVD's search: the last cut within the budget, held against every cut there is."""

import random
from math import inf, nan

import pytest

from gacfx.compressors.strs import SHARES, Ranks, params, ranks_of, strs
from gacfx.errors import InfeasibleBudget

SHAPES = {"a": (20, 30), "b": (40, 16), "c": (24, 24), "d": (9, 60)}
WHOLE = sum(rows * columns for rows, columns in SHAPES.values())


def by_cut(table: dict[str, list[float]]) -> list[Ranks]:
    """What every cut gives, by the words of the paper and from the first entry to none."""
    entries = [
        (table[name][place], name, place)
        for name in SHAPES
        for place in range(len(SHARES))
        if table[name][place] < inf
    ]
    entries.sort(key=lambda entry: -entry[0])
    found = []
    for cut in range(len(entries) + 1):
        ranks: Ranks = {}
        for name, shape in SHAPES.items():
            places = [place for _, module, place in entries[cut:] if module == name]
            ranks[name] = ranks_of(*shape)[min(places)] if places else None
        found.append(ranks)
    return found


def drawn(seed: int, falling: bool) -> dict[str, list[float]]:
    draw = random.Random(seed)
    table = {name: [draw.random() for _ in SHARES] for name in SHAPES}
    return {name: sorted(row, reverse=True) for name, row in table.items()} if falling else table


@pytest.mark.parametrize("falling", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_it_is_the_last_cut_within_the_budget(seed: int, falling: bool) -> None:
    table = drawn(seed, falling)
    cuts = by_cut(table)
    for tenths in (4, 5, 6, 7, 8, 9, 10):
        limit = WHOLE * tenths // 10
        within = [ranks for ranks in cuts if params(SHAPES, ranks) <= limit]
        assert within
        found = strs(SHAPES, table, limit)
        assert found == within[-1]
        assert params(SHAPES, found) <= limit
        assert params(SHAPES, found) == max(params(SHAPES, ranks) for ranks in within)


def test_what_is_kept_rises_with_the_cut() -> None:
    for seed in range(20):
        kept = [params(SHAPES, ranks) for ranks in by_cut(drawn(seed, falling=False))]
        assert kept == sorted(kept) and kept[-1] == WHOLE


def test_ranks_of_the_published_code() -> None:
    # Of Llama-3-8B at 0.4 .. 0.9.
    assert ranks_of(4096, 4096) == (819, 1024, 1228, 1433, 1638, 1843)
    assert ranks_of(1024, 4096) == (327, 409, 491, 573, 655, 737)
    assert ranks_of(14336, 4096) == (1274, 1592, 1911, 2230, 2548, 2867)
    assert [float(share) for share in SHARES] == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert ranks_of(1, 9) == (None,) * 6


@pytest.mark.parametrize("bad", [inf, nan])
def test_entries_that_are_no_numbers_are_never_taken(bad: float) -> None:
    table = drawn(3, falling=True)
    table["c"] = [bad, bad, 0.2, 0.1, bad, 0.0]
    table["d"] = [bad] * 6
    least = dict.fromkeys(SHAPES, None) | {
        "a": ranks_of(20, 30)[0],
        "b": ranks_of(40, 16)[0],
        "c": ranks_of(24, 24)[2],
    }
    needed = params(SHAPES, least)
    with pytest.raises(InfeasibleBudget) as caught:
        strs(SHAPES, table, needed - 1)
    assert (caught.value.needed, caught.value.budget) == (needed, needed - 1)
    assert strs(SHAPES, table, needed) == least
    for limit in range(needed, WHOLE, 37):
        found = strs(SHAPES, table, limit)
        assert found["d"] is None
        assert found["c"] in (None, *(ranks_of(24, 24)[place] for place in (2, 3, 5)))
        assert params(SHAPES, found) <= limit


def test_a_weight_that_is_missing_stays_dense() -> None:
    table = drawn(0, falling=True)
    del table["b"]
    assert strs(SHAPES, table, WHOLE * 8 // 10)["b"] is None


def test_nothing_to_remove_keeps_everything() -> None:
    assert strs(SHAPES, drawn(0, falling=True), WHOLE) == dict.fromkeys(SHAPES)
    assert strs({}, {}, 0) == {}


def test_below_the_smallest_shares_it_says_what_it_can() -> None:
    with pytest.raises(InfeasibleBudget, match="goes down to .* take allocation=uniform") as caught:
        strs(SHAPES, drawn(0, falling=True), WHOLE // 5)
    assert caught.value.needed > caught.value.budget == WHOLE // 5


def test_equal_losses_have_one_order() -> None:
    table = {name: [1.0] * 6 for name in SHAPES}
    found = strs(SHAPES, table, WHOLE * 7 // 10)
    assert found == strs(SHAPES, dict(reversed(table.items())), WHOLE * 7 // 10)
    assert params(SHAPES, found) <= WHOLE * 7 // 10
