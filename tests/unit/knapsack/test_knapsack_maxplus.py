"""The (max,+) join of arms against the textbook knapsack over single increments."""

import numpy as np
import pytest

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.frontier import maxplus
from gacfx.knapsack.frontier.maxplus import Arm, most_gain


def textbook(arms: list[Arm], capacity: int) -> FloatArray:
    """Increments one by one; the best ones of an arm come first by themselves."""
    most = np.zeros(capacity + 1)
    for arm in arms:
        for gain in arm.gain[: capacity // arm.step].tolist():
            most[arm.step :] = np.maximum(
                most[arm.step :], most[: len(most) - arm.step].copy() + gain
            )
    return most


def falling(rng: np.random.Generator, kind: int, count: int) -> IntArray:
    """Gains of every temper: spread, alike, all equal, some zero, a few huge."""
    gain = [
        rng.integers(1, 10**6, count),
        10**6 + rng.integers(0, 3, count),
        np.full(count, 7),
        rng.integers(0, 2, count),
        (2.0 ** rng.uniform(0, 45, count)).astype(np.int64),
    ][kind % 5]
    return np.sort(gain)[::-1]


def random_arms(rng: np.random.Generator, kind: int) -> list[Arm]:
    steps = rng.choice(np.arange(1, 40), int(rng.integers(1, 5)), replace=False)
    return [Arm(int(s), falling(rng, kind, int(rng.integers(1, 40)))) for s in steps]


def assert_equal(arms: list[Arm], capacity: int) -> None:
    most = most_gain(arms, capacity)
    total = sum(arm.step * len(arm.gain) for arm in arms)
    assert len(most) <= min(capacity, total) + 1
    best = textbook(arms, capacity)
    assert most.tolist() == best[: len(most)].tolist()
    assert (best[len(most) :] == most[-1]).all()


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_textbook(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in range(15):
        arms = random_arms(rng, kind)
        total = sum(arm.step * len(arm.gain) for arm in arms)
        assert_equal(arms, int(rng.uniform(0, 1.2) * total))


def test_equals_the_textbook_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    monkeypatch.setattr(maxplus, "_CELLS_PER_ROW", 1)
    for kind in range(30):
        monkeypatch.setattr(maxplus, "_CELLS", int(rng.integers(1, 200)))
        assert_equal(random_arms(rng, kind), 900)


@pytest.mark.parametrize(("small", "large"), [(12, 13), (8, 18), (15, 35), (31, 32)])
@pytest.mark.parametrize("gain", [1, 5])
def test_the_best_count_may_be_far_from_the_greedy_one(small: int, large: int, gain: int) -> None:
    # Nearly one rate for all: what counts is to use up the size, whatever the counts.
    arms = [Arm(small, np.full(60, 10 * small + gain)), Arm(large, np.full(60, 10 * large))]
    assert_equal(arms, 60 * (small + large))


def test_a_last_arm_far_larger_than_the_room() -> None:
    arms = [Arm(3, np.array([5, 4, 1])), Arm(10**15, np.array([9]))]
    assert most_gain(arms, 11).tolist() == [0, 0, 0, 5, 5, 5, 9, 9, 9, 10]


def test_steps_larger_than_all_others_together() -> None:
    arms = [Arm(1, np.array([3, 1])), Arm(1000, np.array([8, 7])), Arm(1001, np.array([8]))]
    assert_equal(arms, 3003)


@pytest.mark.parametrize("arms", [[], [Arm(4, np.array([2, 1]))]])
def test_no_room(arms: list[Arm]) -> None:
    assert most_gain(arms, 0).tolist() == [0]


def test_sums_inside_an_arm_are_exact() -> None:
    gain = np.full(3000, 2**48 + 1)  # float64 sums of these would be rounded, each a little
    most = most_gain([Arm(1, gain)], 3000)
    assert most[-1] == float(3000 * (2**48 + 1))
