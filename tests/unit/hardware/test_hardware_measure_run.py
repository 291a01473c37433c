import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gacfx.hardware.measure import run
from gacfx.hardware.measure.clock import Call
from gacfx.hardware.measure.journal import Journal, key, read
from gacfx.hardware.measure.part import Rates, Result, Setting
from gacfx.hardware.measure.timing import HostTimer


@dataclass(frozen=True)
class Number:
    value: int


class Mortal(HostTimer):
    """Of a device that one item breaks."""

    alive = True

    def once(self, call: Call) -> float:
        if not Mortal.alive:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().once(call)


class Breaking:
    """Items that fail in their ways; the one of value 3 breaks the device."""

    name = "dispatch"

    def items(self) -> Sequence[Number]:
        return [Number(value) for value in (0, 1, 2, 4, 0, 3, 5)]

    def seconds(self, item: Number) -> float:
        return 0.0

    def measure(self, item: Number) -> Result:
        if item.value == 1:
            raise ValueError("no such shape")
        if item.value == 2:
            raise RuntimeError(
                "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul"
            )
        if item.value == 3:
            Mortal.alive = False
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return {"value": math.nan if item.value == 4 else item.value}

    def headline(self, item: Number, result: Result) -> str | None:
        return f"number {item.value}"

    def close(self) -> None:
        assert Mortal.alive


def test_a_failure_is_an_answer_and_a_broken_device_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mortal, "alive", True)
    monkeypatch.setattr(run, "CLOCKS_EVERY_S", 0.0)
    journal = Journal(tmp_path, resume=False)
    work = run.Run(journal, Setting(Mortal(), Rates(), dry=True))
    tally = work.part(Breaking(), limit_s=60.0, skip=set())
    journal.close()
    assert (tally.done, tally.failed, tally.left) == (2, 4, 1)
    assert tally.lines == ["number 0", "number 0"] and work.broken
    broke = [r.get("broke", False) for r in read(tmp_path) if r["kind"] == "item"]
    assert broke == [False] * 5 + [True]
    with Journal(tmp_path, resume=True) as again:  # goes on behind what broke it
        assert again.done() == {key("dispatch", {"value": value}) for value in (0, 3)}
