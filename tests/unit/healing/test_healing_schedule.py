"""How many steps fit into tokens and minutes, what they read, and settings that make no sense."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch

from gacfx.errors import HealingError
from gacfx.healing.schedule import (
    LEAST_JUDGED,
    MOST_JUDGED,
    Schedule,
    Speed,
    plan_schedule,
    rate_share,
    searched,
    steps_of,
)
from gacfx.healing.settings import EVALUATIONS, MOST_TRIALS, RATES, Healing

FAST = Speed(step_s=1e-3, judged_token_s=1e-7)
SLOW = Speed(step_s=2.0, judged_token_s=2e-3)
PLENTY = 10**6


def test_tokens_limit_a_fast_machine_trials_included() -> None:
    made = plan_schedule(Healing(tokens=1_000_000), FAST, PLENTY)
    used = (made.steps + MOST_TRIALS * made.probe_steps) * 512
    assert 0.99 * 1_000_000 < used <= 1_000_000
    assert made.probe_steps == made.steps // 10
    assert made.judged_tokens == MOST_JUDGED


def test_minutes_limit_a_slow_one_and_judging_takes_its_share() -> None:
    made = plan_schedule(Healing(), SLOW, PLENTY)
    judging = (1 + MOST_TRIALS + EVALUATIONS) * made.judged_tokens * SLOW.judged_token_s
    training = (made.steps + MOST_TRIALS * made.probe_steps) * SLOW.step_s
    assert 0.85 * 1800 < judging + training <= 0.9 * 1800
    assert judging <= 0.25 * 0.9 * 1800
    assert plan_schedule(Healing(minutes=60), SLOW, PLENTY).steps > 1.5 * made.steps


def test_a_single_rate_is_not_tried() -> None:
    made = plan_schedule(Healing(tokens="512k", rates=(1e-3,)), FAST, PLENTY)
    assert made.probe_steps == 0 and made.steps == 1000


def test_a_short_training_is_judged_on_less() -> None:
    assert plan_schedule(Healing(tokens="50k"), FAST, PLENTY).judged_tokens == LEAST_JUDGED
    middle = plan_schedule(Healing(tokens="180k"), FAST, PLENTY).judged_tokens
    assert middle == 180_000 * 2 // (3 * 13)
    assert (
        plan_schedule(Healing(tokens="180k"), replace(FAST, step_s=1e-2), PLENTY).judged_tokens
        == middle
    )


def test_no_more_is_judged_than_is_held_back() -> None:
    assert plan_schedule(Healing(), FAST, 700).judged_tokens == 700


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"minutes": 0.1}, r"minutes 0.1: 1 steps of 512 tokens fit .* allow about 0.5\d minutes"),
        ({"tokens": 3000}, r"tokens 3000: that makes 3 steps .* allow 6,144 \(--tokens\)"),
    ],
)
def test_too_little_is_refused_with_what_is_needed(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(HealingError, match=says):
        plan_schedule(Healing(**settings), SLOW, PLENTY)


def test_what_a_refusal_asks_for_is_enough() -> None:
    assert plan_schedule(Healing(tokens=6144), FAST, PLENTY).steps == EVALUATIONS
    assert plan_schedule(Healing(minutes=0.6), SLOW, PLENTY).steps >= EVALUATIONS


def test_a_training_is_judged_at_equal_distances_and_at_its_end() -> None:
    made = Schedule(steps=80, probe_steps=8, judged_tokens=1)
    assert [at for at in range(81) if made.judged_after(at)] == list(range(10, 81, 10))
    odd = replace(made, steps=13)
    marks = [at for at in range(14) if odd.judged_after(at)]
    assert len(marks) == EVALUATIONS and marks[-1] == 13


def test_the_rate_rises_and_falls() -> None:
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert 0 < shares[-1] < 0.001 and max(shares) == 1
    assert rate_share(0, 1) == 1


def test_every_window_is_read_once_in_a_turn_and_in_another_order_in_the_next() -> None:
    lengths = [90, 40, 60, 96, 33, 50, 80]
    windows = [torch.zeros(length) for length in lengths]
    steps = steps_of(windows, 150, seed=0, count=40)
    assert len(steps) == 40
    places = [place for step in steps for place in step]
    turns = [places[at : at + 7] for at in range(0, 70, 7)]
    assert all(sorted(turn) == list(range(7)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 5
    assert all(sum(lengths[place] for place in step) <= 150 for step in steps)
    assert max(map(len, steps)) > 1
    assert steps_of(windows, 150, 0, 9) == steps[:9]
    assert steps_of(windows, 150, 1, 40) != steps
    assert all(len(step) == 1 for step in steps_of(windows, 10, 0, 9))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tokens": 0}, "tokens 0: must be at least 1"),
        ({"tokens": "many"}, "tokens 'many': not a number such as 500k"),
        ({"minutes": 0}, "minutes 0: give a number above 0"),
        ({"minutes": float("nan")}, "minutes nan"),
        ({"minutes": "5"}, "minutes '5'"),
        ({"window": 32}, "window 32: give a whole number, at least 33"),
        ({"step_tokens": 0}, "step_tokens 0"),
        ({"step_tokens": 1.5}, "step_tokens 1.5"),
        ({"lora": 0}, "lora 0"),
        ({"seed": "one"}, "seed 'one'"),
        ({"rates": (1e-3, 0.0)}, "rate 0.0: give a number above 0"),
        ({"rates": (float("inf"),)}, "rate inf"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(HealingError, match=says):
        Healing(**wrong)


def test_rates_are_tried_once_each_from_the_smallest() -> None:
    assert Healing(rates=(3e-3, 1e-4, 3e-3)).offered == (1e-4, 3e-3)
    assert Healing().offered == RATES
    assert min(Healing(lora=4).offered) > min(RATES)
    trials = [Healing(rates=(1e-3,)).trials, Healing(rates=(1e-3, 1e-4)).trials, Healing().trials]
    assert trials == [0, 2, MOST_TRIALS]


@pytest.mark.parametrize(
    ("losses", "tried"),
    [
        ([9, 9, 0.5, 0.4, 0.3], [2, 3, 4]),  # up to the end
        ([9, 9, 0.5, 0.4, 0.6], [2, 3, 4]),
        ([9, 9, 0.5, 0.6, 0.1], [2, 3, 1]),  # one up is worse, so one down is tried
        ([0.3, 0.4, 0.5, 0.6, 9], [2, 3, 1, 0]),
        ([0.7, 0.8, 1.5, 0.1, 0.1], [2, 1, 0]),  # the middle one harms: only down
        ([0.7, 2.0, 1.5, 0.1, 0.1], [2, 1]),
        ([9, 9, 0.5, inf, inf], [2, 3, 1]),
        ([9, inf, inf, inf, inf], [2, 1, 0]),
        ([0.5, inf, inf, inf, inf], [2, 1, 0]),
    ],
)
def test_rates_are_searched_from_the_middle(losses: list[float], tried: list[int]) -> None:
    order: list[int] = []

    def kl_of(at: int) -> float:
        order.append(at)
        return losses[at]

    assert searched(len(losses), kl_of, 1.0) == {at: losses[at] for at in tried}
    assert order == tried
