"""Goals: three ways to say how much may remain, and every way to say it wrongly."""

from typing import Any

import pytest

from gacfx.core.goal import Goal, as_goal
from gacfx.errors import PlanError


@pytest.mark.parametrize(
    ("goal", "unit", "amount", "whole"),
    [
        (Goal(ratio=0.2), "ratio", "0.2", "targeted"),
        (Goal(ratio="1/5", of="model"), "ratio", "1/5", "model"),
        (Goal(params="6.5G"), "params", "6.5G", "model"),
        (Goal(nbytes=1000), "bytes", "1000 bytes", "model"),
        (Goal(nbytes="1000"), "bytes", "1000 bytes", "model"),
        (Goal(nbytes="1000 bytes"), "bytes", "1000 bytes", "model"),
        (Goal(nbytes="1kB"), "bytes", "1kB", "model"),
    ],
)
def test_a_goal_keeps_the_words_it_was_given_in(
    goal: Goal, unit: str, amount: str, whole: str
) -> None:
    assert (goal.unit, goal.amount, goal.whole) == (unit, amount, whole)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (6_500_000_000, 6_500_000_000),
        ("6500000000", 6_500_000_000),
        ("6_500_000_000", 6_500_000_000),
        ("6.5e9", 6_500_000_000),
        ("6.5G", 6_500_000_000),
        ("6.5 B", 6_500_000_000),
        ("120k", 120_000),
        ("1.5M", 1_500_000),
        ("0.1234567891T", 123_456_789_100),
        ("1.0000000015G", 1_000_000_001),
    ],
)
def test_parameters_are_counted_exactly_and_rounded_down(given: int | str, count: int) -> None:
    assert Goal(params=given).count == count


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("12GiB", 12 * 2**30),
        ("12.5GB", 12_500_000_000),
        ("1.5 KiB", 1536),
        ("3kB", 3000),
        ("3KB", 3000),
        ("7B", 7),
        (7, 7),
        ("1TiB", 2**40),
    ],
)
def test_bytes_have_their_own_units(given: int | str, count: int) -> None:
    assert Goal(nbytes=given).count == count


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a goal is one of ratio, params and nbytes; nothing was given"),
        ({"ratio": 0.2, "params": 5}, "nbytes; ratio and params was given"),
        ({"params": "6.5GiB"}, "params '6.5GiB': not a number such as 6.5G; units are k, M, G"),
        ({"nbytes": "12G"}, "bytes '12G': not a number such as 12GiB; units are B, kB, MB"),
        ({"nbytes": "much"}, "bytes 'much': not a number"),
        ({"params": ""}, "params '': not a number"),
        ({"params": "-5G"}, "params '-5G': not a number"),
        ({"params": "1e999999999"}, "params '1e999999999': not a number"),
        ({"params": 0}, "params 0: must be at least 1"),
        ({"params": -5}, "params -5: not a number|params -5: must be at least 1"),
        ({"params": "0.9"}, "params 0.9: must be at least 1"),
        ({"params": True}, "params True: give a whole number or text"),
        ({"params": 6.5e9}, "params 6500000000.0: give a whole number or text"),
        ({"ratio": 0.2, "of": "all"}, "of 'all': a ratio is of the 'targeted' weights"),
    ],
)
def test_what_is_no_goal_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Goal(**given)


def test_a_ratio_is_no_count_yet() -> None:
    with pytest.raises(PlanError, match="ratio 0.2 is no count before the model is known"):
        _ = Goal(ratio=0.2).count


def test_doors_take_a_ratio_a_goal_or_nothing() -> None:
    goal = Goal(params="5M")
    assert as_goal(None) == Goal(ratio="0.2")
    assert as_goal(0.3) == Goal(ratio=0.3)
    assert as_goal(None, goal) is as_goal(goal) is goal
    with pytest.raises(PlanError, match="ratio 0.3 and Goal.* are both given; give one"):
        as_goal(0.3, goal)
