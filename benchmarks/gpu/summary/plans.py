"""Whole models: which compressed Llama is fastest in each cell of the part ``end-to-end``."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.tables import Table, number, table

PART = "end-to-end"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """What was run, whatever the variant."""

    phase: str
    mode: str
    layers: int
    batch: int
    seq: int
    """Tokens of a prefill; of decode the length of the KV cache."""

    def text(self) -> str:
        """``prefill of 1024 tokens, batch 1, eager, 32 layers``."""
        what = "prefill of" if self.phase == "prefill" else "decode after"
        return f"{what} {self.seq} tokens, batch {self.batch}, {self.mode}, {self.layers} layers"

    @property
    def dense(self) -> "Place":
        """Where the dense model to compare with is: padding has nothing to do where all fits."""
        return replace(self, mode="compiled") if self.mode == "padded-compiled" else self


def place(item: dict[str, Any]) -> Place:
    """The place of an item."""
    return Place(item["phase"], item["mode"], item["layers"], item["batch"], item["seq"])


def medians_us(records: Records) -> dict[Place, dict[str, float]]:
    """Place -> variant -> median, the fastest first."""
    found: defaultdict[Place, dict[str, float]] = defaultdict(dict)
    for entry in records.results(PART):
        if (times := entry.times("times")) is not None:
            found[place(entry.item)][entry.item["variant"]] = times.median_us
    return {at: dict(sorted(found[at].items(), key=lambda pair: pair[1])) for at in sorted(found)}


def plans_table(records: Records) -> Table:
    """One row for each place that has a dense model to compare with: 0.80 is a fifth less time."""
    found = medians_us(records)
    rows = []
    for at, variants in found.items():
        dense_us = found.get(at.dense, {}).get("dense")
        if dense_us is not None:
            order = ", ".join(f"{name} {us / dense_us:.2f}" for name, us in variants.items())
            rows.append((at.text(), number(dense_us / 1e3), order))
    return table(("run", ">dense, ms", "time of dense, fastest first"), rows)
