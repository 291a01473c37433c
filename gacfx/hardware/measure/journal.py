"""A journal of one measurement folder: JSON lines, written as they come, so a cut run keeps all.

{"kind": "run",    "run": 1, ...}                                 who measures, on what
{"kind": "item",   "run": 1, "part": ..., "item": {...}, "took_s": ..., "result": {...}}
{"kind": "item",   "run": 1, "part": ..., "item": {...}, "took_s": ..., "error": "..."}
{"kind": "clocks", "run": 1, "at_s": ..., ...}                    clocks, power, temperature
{"kind": "end",    "run": 1, "took_s": ..., "parts": {...}}       absent if the run was cut
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

Record = dict[str, Any]
FILE = "records.jsonl"


class Journal:
    """Appends records to ``folder/records.jsonl``; every record is on the disk when it returns."""

    def __init__(self, folder: Path, *, resume: bool) -> None:
        """Open the journal.

        Args:
            folder: made if it is not there.
            resume: go on with the records that are there.

        Raises:
            FileExistsError: there are records and ``resume`` is not given.
        """
        self.path = folder / FILE
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; --out takes a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not resume:
            raise FileExistsError(f"{self.path} exists; --resume goes on with it")
        self.past: tuple[Record, ...] = tuple(read(folder)) if self.path.exists() else ()
        self.run = 1 + max((int(record["run"]) for record in self.past), default=0)
        self._mend()
        self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, kind: str, **fields: object) -> None:
        """One record, flushed to the disk."""
        record = {"kind": kind, "run": self.run, **fields}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def done(self) -> set[str]:
        """Keys of the items that earlier runs measured, or that broke the device.

        Those that failed and did no harm are not among them.
        """
        items = (r for r in self.past if r["kind"] == "item" and ("result" in r or r.get("broke")))
        return {key(record["part"], record["item"]) for record in items}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _mend(self) -> None:
        """Cut off the half line that a killed run may have left."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            self.path.write_bytes(whole)


def key(part: str, item: Mapping[str, object]) -> str:
    """What makes an item the same in two runs: its part and all of its fields."""
    return f"{part} {json.dumps(item, sort_keys=True)}"


def read(folder: Path) -> Iterator[Record]:
    """The records of a folder in order; a last line that is cut short is left out.

    Raises:
        ValueError: another line is no JSON object with ``kind`` and ``run``; names it.
    """
    path = folder / FILE
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict) or not {"kind", "run"} <= record.keys():
            raise ValueError(f"{path}:{number}: expected an object with kind and run")
        yield record
