"""Measuring: turns, intervals, memory and the clock. No test asserts how long anything took."""

from itertools import product
from pathlib import Path

import pytest
import torch

from gacfx.hardware.measure import memory
from gacfx.hardware.measure.clock import Call, Clock
from gacfx.hardware.measure.device import default_device, is_here, name_of
from gacfx.hardware.measure.interleave import (
    MIN_RUNS,
    MOST_CALLS,
    WARM_UP,
    Effort,
    interleaved,
    median_interval,
)
from gacfx.hardware.measure.times import Times, summary, tenths
from gacfx.hardware.measure.timing import HostTimer, make_timer

CPU = torch.device("cpu")


class Virtual:
    """A clock that says how far the calls have moved it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: list[str] = []

    def call(self, name: str, seconds: float) -> Call:
        def made() -> None:
            self.now += seconds
            self.made.append(name)

        return made

    def once(self, call: Call) -> float:
        before = self.now
        call()
        return self.now - before


def test_calls_are_made_in_turn() -> None:
    clock = Virtual()
    found = interleaved([clock.call("a", 0.5), clock.call("b", 1.0)], clock, Effort(8, 100.0))
    assert clock.made == ["a", "b"] * (1 + 8)  # the first round of warm-up takes its whole time
    assert found.calls == 1
    assert found.samples_us == ((0.5e6,) * 8, (1e6,) * 8)


def test_a_sample_of_short_calls_is_a_row_of_them_as_many_of_each() -> None:
    clock = Virtual()
    found = interleaved([clock.call("a", 5e-4), clock.call("b", 4e-3)], clock, Effort(6, 1.0))
    assert found.calls == 4
    assert clock.made[2 * WARM_UP :] == (["a"] * 4 + ["b"] * 4) * 6
    assert found.samples_us[0] == pytest.approx([500.0] * 6)
    assert found.samples_us[1] == pytest.approx([4000.0] * 6)
    shortest = interleaved([clock.call("c", 1e-7)], clock, Effort(6, 1.0))
    assert shortest.calls == MOST_CALLS


def test_measuring_stops_after_its_seconds_but_not_before_six_rounds() -> None:
    clock = Virtual()
    calls = [clock.call("a", 1.0), clock.call("b", 1.0)]
    assert len(interleaved(calls, clock, Effort(40, 20.0)).samples_us[0]) == 10
    assert len(interleaved(calls, clock, Effort(40, 0.1)).samples_us[0]) == MIN_RUNS
    assert len(interleaved(calls, clock, Effort(2, 0.1)).samples_us[0]) == 2


@pytest.mark.parametrize("count", [1, 5, 6, 9, 12])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    found = median_interval(range(count))
    k = int(found.low) + 1
    assert found.high == count - k
    # Each sample is below the true median or above it, with even odds.
    sides = [sum(signs) for signs in product((0, 1), repeat=count)]
    held = sum(k <= below <= count - k for below in sides) / len(sides)
    assert found.confidence == pytest.approx(held)
    assert (found.confidence >= 0.95) == (count >= MIN_RUNS)
    narrower = sum(k + 1 <= below <= count - k - 1 for below in sides) / len(sides)
    assert narrower < 0.95


def test_the_clock_makes_each_call_once() -> None:
    made: list[int] = []
    clock = Clock(CPU)
    assert clock.once(lambda: made.append(1)) >= 0
    assert clock.issue(lambda: made.append(2)) >= 0
    assert HostTimer().once(lambda: made.append(3)) >= 0
    assert made == [1, 2, 3]


def test_free_memory_is_the_least_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP_ROOT", tmp_path)
    assert memory.free_bytes(CPU) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  3000 kB\n")
    assert memory.free_bytes(CPU) == 3000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.free_bytes(CPU) == 3000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_bytes(CPU) == 4000
    assert memory.free_bytes(torch.device("meta")) is None


def test_too_little_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert memory.is_out_of_memory(raised.value)  # torch's own words on a CPU
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not memory.is_out_of_memory(ValueError("not enough memory"))


def test_the_device_is_the_gpu_if_there_is_one() -> None:
    cuda = torch.cuda.is_available()
    assert default_device().type == ("cuda" if cuda else "cpu")
    assert is_here(torch.device("cuda")) == cuda
    assert is_here(CPU) and not is_here(torch.device("meta"))
    assert not is_here(torch.device("cuda", 99))
    assert name_of(CPU)


def test_summary_is_median_and_tenths() -> None:
    times = summary([float(n) for n in range(100, 0, -1)], "cold")
    assert times == Times(median_us=50.5, p10_us=11.0, p90_us=90.0, runs=100, how="cold")
    assert times.spread == pytest.approx(90 / 11)
    assert tenths([3.0]) == (3.0, 3.0, 3.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_only_a_rehearsal_runs() -> None:
    with pytest.raises(RuntimeError, match="--dry"):
        make_timer(dry=False)
