"""Ranks in proportion to importance: within the budget, all of it used, and by hand."""

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest

from gacfx.compressors.proportional import LEAST, proportional_ranks
from gacfx.errors import InfeasibleBudget, PlanError

SQUARE = {"a": (64, 64), "b": (64, 64)}


def draw(random: np.random.Generator) -> tuple[dict[str, tuple[int, int]], dict[str, float]]:
    count = int(random.integers(1, 12))
    shapes = {
        f"w{i}": (int(random.integers(2, 300)), int(random.integers(2, 300))) for i in range(count)
    }
    return shapes, {name: float(np.exp(random.normal(0, 3))) for name in shapes}


def test_a_thousand_budgets_are_met_from_below_and_used_up() -> None:
    random = np.random.default_rng(0)
    met = 0
    for _ in range(1000):
        shapes, scores = draw(random)
        ratio = str(random.integers(5, 95) / 100)
        try:
            found = proportional_ranks(shapes, scores, ratio)
        except InfeasibleBudget:
            continue  # of weights so small that the least ranks are too many
        met += 1
        units = {name: sum(shape) for name, shape in shapes.items()}
        caps = {name: m * n // (m + n) for name, (m, n) in shapes.items()}
        cost = sum(rank * units[name] for name, rank in found.ranks.items())
        whole = sum(m * n for m, n in shapes.values())
        assert cost == found.params <= found.budget == int(whole * (1 - Fraction(ratio)))
        assert all(1 <= found.ranks[name] <= caps[name] for name in shapes)
        assert list(found.ranks) == list(shapes)
        room = [units[name] for name in shapes if found.ranks[name] < caps[name]]
        assert found.budget - cost < min(room, default=inf)
    assert met > 900


def test_equal_importance_gives_equal_ranks_of_the_share() -> None:
    found = proportional_ranks(SQUARE, {"a": 2.0, "b": 2.0}, "0.25")
    assert dict(found.ranks) == {"a": 24, "b": 24}  # three quarters of the break-even rank, 32
    assert (found.params, found.budget) == (24 * 128 * 2, 6144)
    assert (found.at_most, found.at_least) == (0, 0)


def test_importance_counts_by_its_root() -> None:
    # c 32 (s / g)^(1/2): roots 1 : 2 share 48 ranks in all as 16 and 32, of which 32 is the cap.
    found = proportional_ranks(SQUARE, {"a": 1.0, "b": 4.0}, "0.25")
    assert dict(found.ranks) == {"a": 16, "b": 32}
    assert found.at_most == 1
    low = proportional_ranks(SQUARE, {"a": 1.0, "b": 4.0}, "0.5")
    assert {name: round(rank / 3.2) for name, rank in low.ranks.items()} == {"a": 3, "b": 7}
    assert sum(low.ranks.values()) == 32
    straight = proportional_ranks(SQUARE, {"a": 1.0, "b": 4.0}, "0.5", tau=1.0)
    assert straight.ranks["b"] > low.ranks["b"]
    flat = proportional_ranks(SQUARE, {"a": 1.0, "b": 4.0}, "0.5", tau=0.0)
    assert dict(flat.ranks) == {"a": 16, "b": 16}


def test_only_quotients_of_scores_count() -> None:
    shapes, scores = draw(np.random.default_rng(5))
    once = proportional_ranks(shapes, scores, "0.3")
    much = proportional_ranks(shapes, {n: 1e9 * s for n, s in scores.items()}, "0.3")
    assert once.ranks == much.ranks


def test_a_higher_score_never_gets_a_smaller_rank() -> None:
    shapes = {f"w{i}": (96, 160) for i in range(9)}
    scores = {name: 1.5**i for i, name in enumerate(shapes)}
    ranks = list(proportional_ranks(shapes, scores, "0.4").ranks.values())
    assert ranks == sorted(ranks) and ranks[0] < ranks[-1]


def test_scores_far_apart_end_at_the_bounds() -> None:
    found = proportional_ranks(SQUARE, {"a": 1e-12, "b": 1e12}, "0.4")
    assert found.ranks["b"] == 32 and found.at_most == 1
    # What b cannot use is left to a; where nothing is left, a keeps its least.
    assert found.ranks["a"] == 38 - 32
    tight = proportional_ranks(SQUARE, {"a": 1e-12, "b": 1e12}, "0.6")
    assert dict(tight.ranks) == {"a": int(LEAST * 32), "b": 24} and tight.at_least == 1


def test_what_is_left_over_goes_to_the_largest_fraction() -> None:
    shapes = {"a": (10, 10), "b": (10, 10), "c": (10, 10)}
    scores = {"a": 1.0, "b": 1.21, "c": 1.0}
    # 3 x 5 x 0.7 = 10.5 ranks of 20: 3.39, 3.73 and 3.39; the tenth goes to b.
    assert dict(proportional_ranks(shapes, scores, "0.3").ranks) == {"a": 3, "b": 4, "c": 3}
    # 9.9 and equal parts: 3 each, and nothing is left for a tenth.
    equal = dict.fromkeys(shapes, 1.0)
    assert dict(proportional_ranks(shapes, equal, "0.34").ranks) == {"a": 3, "b": 3, "c": 3}
    # Of equal fractions the first one is served.
    assert dict(proportional_ranks(shapes, equal, "0.3").ranks) == {"a": 4, "b": 3, "c": 3}


@pytest.mark.parametrize(
    ("scores", "ratio", "message"),
    [
        ({"a": 1.0, "b": 0.0}, "0.2", "^b: importance 0.0 says nothing; leave the weight out"),
        ({"a": nan, "b": 1.0}, "0.2", "^a: importance nan says nothing"),
        ({"a": 1.0, "b": inf}, "0.2", "^b: importance inf says nothing"),
        ({"a": 1.0, "b": -1.0}, "0.2", "^b: importance -1.0 says nothing"),
        ({"a": 1.0}, "0.2", "^b: importance None says nothing"),
        ({"a": 1.0, "b": 1.0}, "1", "^ratio 1: is no share between 0 and 1"),
        ({"a": 1.0, "b": 1.0}, "0", "^ratio 0: is no share"),
        ({"a": 1.0, "b": 1.0}, -0.2, "^ratio -0.2: is no share"),
        ({"a": 1.0, "b": 1.0}, "20%", "^ratio 20%: not a number such as 0.2"),
        ({"a": 1.0, "b": 1.0}, "1/0", "^ratio 1/0: not a number"),
        ({"a": 1.0, "b": 1.0}, nan, "^ratio nan: not a number"),
    ],
)
def test_bad_scores_and_ratios(scores: dict[str, float], ratio: float | str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        proportional_ranks(SQUARE, scores, ratio)


def test_no_weights_no_ranks_and_too_little_room() -> None:
    with pytest.raises(PlanError, match="there are no weights to give ranks to"):
        proportional_ranks({}, {}, "0.2")
    with pytest.raises(PlanError, match=r"a: a weight \[1, 9\] has no rank to choose"):
        proportional_ranks({"a": (1, 9)}, {"a": 1.0}, "0.2")
    with pytest.raises(InfeasibleBudget, match="ratio 0.99: 81 parameters may remain, and the "):
        proportional_ranks(SQUARE, {"a": 1.0, "b": 1.0}, "0.99")
