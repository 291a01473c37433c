"""One run of measurements: parts in order, each item into the journal, within the time budget."""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

import torch

from gacfx.hardware.measure import machine
from gacfx.hardware.measure.cases.gemm import Gemm
from gacfx.hardware.measure.journal import Journal, key
from gacfx.hardware.measure.part import Part, Setting

CLOCKS_EVERY_S = 15.0
LAUNCHES = 2000
"""Tiny kernels that are timed with the clocks: what a launch costs the host; the times of eager
mode hang on it, and a profiler or a busy host changes it."""
CANARY_SIZE = 4096
"""M = N = K of a matmul that is timed with the clocks: if it drifts, so did everything else."""


@dataclass(slots=True)
class Tally:
    """What became of the items of a part."""

    done: int = 0
    failed: int = 0
    left: int = 0
    took_s: float = 0.0
    lines: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> dict[str, int]:
        """For the journal."""
        return {"done": self.done, "failed": self.failed, "left": self.left}


class Run:
    """One run: parts in order, each item into the journal, within the time budget."""

    def __init__(self, journal: Journal, setting: Setting) -> None:
        self._journal = journal
        self._timer = setting.timer
        size = 64 if setting.dry else CANARY_SIZE
        self._canary = Gemm(size, size, size).prepare(setting.timer.device)
        self._little = torch.zeros(32, device=setting.timer.device)
        self._begin = time.monotonic()
        self._clocks_at = 0.0
        self.broken = False

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._begin

    def part(self, part: Part, limit_s: float, skip: set[str]) -> Tally:
        """Measure the items of a part until its limit."""
        tally, begin = Tally(), self.elapsed()
        for item in part.items():
            if key(part.name, asdict(item)) in skip:
                continue
            if self.broken or self.elapsed() + part.seconds(item) > limit_s:
                tally.left += 1
                continue
            self._item(part, item, tally)
        if not self.broken:
            part.close()
        tally.took_s = round(self.elapsed() - begin, 1)
        return tally

    def _item(self, part: Part, item: object, tally: Tally) -> None:
        begin = time.monotonic()
        fields = {"part": part.name, "item": asdict(item)}  # type: ignore[call-overload]
        try:
            result = part.measure(item)
            json.dumps(result, allow_nan=False)  # what the journal cannot hold is a failure too
            line = part.headline(item, result)
            outcome: dict[str, object] = {"result": result}
        except Exception as error:  # an illegal shape, or too little memory, is an answer too
            outcome = {"error": f"{type(error).__name__}: {error}"[:400]}
        if "error" in outcome:
            tally.failed += 1
            tally.errors[str(outcome["error"]).split("\n")[0][:100]] += 1
            # Not by its words: cuBLAS says "CUDA error" of every shape that it does not support.
            self.broken = not self._alive()
            if self.broken:
                outcome["broke"] = True  # a resumed run would break here again
        else:
            tally.done += 1
            tally.lines += [line] if line else []
        self._journal.write("item", **fields, took_s=round(time.monotonic() - begin, 3), **outcome)
        if not self.broken:
            self._note_clocks()

    def _alive(self) -> bool:
        """Whether the device still computes: an error that spoils it comes back in every call."""
        try:
            self._timer.once(self._canary.call)
        except RuntimeError:
            return False
        return True

    def _note_clocks(self) -> None:
        if self.elapsed() - self._clocks_at < CLOCKS_EVERY_S:
            return
        self._clocks_at = self.elapsed()
        canary_us = self._timer.warm(self._canary.call).median_us
        at_s = round(self.elapsed(), 1)
        launch_us = round(self._timer.once(self._launches) * 1e6 / LAUNCHES, 2)
        seen = machine.clocks(lambda: self._timer.once(self._load))
        self._journal.write("clocks", at_s=at_s, canary_us=canary_us, launch_us=launch_us, **seen)

    def _launches(self) -> None:
        for _ in range(LAUNCHES):
            self._little.add_(1)

    def _load(self) -> None:
        for _ in range(50):
            self._canary.call()


def check_same_machine(journal: Journal, stamp: dict[str, object], *, dry: bool) -> None:
    """Raises ValueError if the journal's records are of another device, or of a rehearsal."""
    for record in journal.past:
        if record["kind"] != "run":
            continue
        name = record.get("machine", {}).get("name", "an unknown machine")
        if record.get("dry") != dry or name != stamp["name"]:
            kind = "a rehearsal" if record.get("dry") else name
            raise ValueError(f"{journal.path} holds records of {kind}; take another folder")
