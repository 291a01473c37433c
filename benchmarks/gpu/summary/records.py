"""The records of one measurement folder, as the pages use them: one entry for each item.

Several runs may share a folder. Of an item that was measured twice the newest result counts, and an
error counts only if no run got a result.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gacfx.hardware.measure import journal
from gacfx.hardware.measure.journal import Record
from gacfx.hardware.measure.times import Times


class SummaryError(ValueError):
    """A folder that no page can be written for; says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one item."""

    part: str
    item: dict[str, Any]
    run: int
    result: dict[str, Any] | None
    """None if every try failed."""
    error: str = ""

    def times(self, name: str) -> Times | None:
        """``result[name]`` as times; None where the item has none."""
        found = (self.result or {}).get(name)
        return Times(**found) if isinstance(found, dict) else None

    def number(self, name: str) -> float | None:
        """A number of the result; None where the item has none."""
        found = (self.result or {}).get(name)
        return None if found is None else float(found)


@dataclass(frozen=True, slots=True)
class Records:
    """All that one folder holds."""

    name: str
    """Of the folder, and of its page."""
    runs: tuple[Record, ...]
    clocks: tuple[Record, ...]
    entries: tuple[Entry, ...]
    """In the order in which the items first came."""

    @property
    def dry(self) -> bool:
        """A rehearsal is among the runs: its times mean nothing."""
        return any(run.get("dry") for run in self.runs)

    @property
    def machine(self) -> dict[str, Any]:
        """What the newest run says of its machine; empty if no run says anything."""
        found: dict[str, Any] = self.runs[-1].get("machine", {}) if self.runs else {}
        return found

    @property
    def device(self) -> str:
        """Name of the GPU, as its driver says it."""
        return str(self.machine.get("name", "unknown device"))

    @property
    def day(self) -> str:
        """Date of the newest run, ``2026-01-31``."""
        return str(self.runs[-1].get("started", ""))[:10] if self.runs else ""

    @property
    def torch(self) -> str:
        """Version of torch, with the CUDA build; empty if the records do not say it."""
        return str(self.machine.get("packages", {}).get("torch", ""))

    def results(self, part: str) -> list[Entry]:
        """Measured items of a part."""
        return [e for e in self.entries if e.part == part and e.result is not None]

    def errors(self) -> list[Entry]:
        """Items that failed in every run."""
        return [entry for entry in self.entries if entry.result is None]


def load(folder: Path, *, dry: bool = False) -> Records:
    """The records of a folder.

    Args:
        folder: holds ``records.jsonl``.
        dry: take rehearsals too; their pages say what they are.

    Raises:
        SummaryError: no records, a broken line, or a rehearsal that was not asked for.
    """
    if not (folder / journal.FILE).is_file():
        raise SummaryError(f"{folder} has no {journal.FILE}; collect.py --out writes it")
    try:
        records = list(journal.read(folder))
    except ValueError as error:
        raise SummaryError(str(error)) from None
    if not records:
        raise SummaryError(f"{folder / journal.FILE} is empty; collect.py --resume fills it")
    found = Records(
        name=folder.resolve().name,
        runs=_of(records, "run"),
        clocks=_of(records, "clocks"),
        entries=tuple(_newest(_of(records, "item"), folder)),
    )
    if found.dry and not dry:
        raise SummaryError(f"{folder} holds a rehearsal (collect.py --dry), which measures nothing")
    return found


def _of(records: Iterable[Record], kind: str) -> tuple[Record, ...]:
    return tuple(record for record in records if record["kind"] == kind)


def _newest(items: Iterable[Record], folder: Path) -> list[Entry]:
    """One entry for each item: its last result, or its last error if it has no result."""
    entries: dict[str, Entry] = {}
    for record in items:
        if not {"part", "item"} <= record.keys() or not {"result", "error"} & record.keys():
            raise SummaryError(f"{folder}: an item without part, item and result or error")
        key = journal.key(record["part"], record["item"])
        if "result" in record or key not in entries or entries[key].result is None:
            entries[key] = Entry(
                part=record["part"],
                item=record["item"],
                run=int(record["run"]),
                result=record.get("result"),
                error=str(record.get("error", "")),
            )
    return list(entries.values())
