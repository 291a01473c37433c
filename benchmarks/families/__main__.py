"""Every causal language model of transformers, tiny and random: how far does gacfx go with it?

    python -m benchmarks.families [--types TYPE ...] [--again]

Each type runs in a process of its own. Results are written after each; types whose results are of
the same code and versions are not run again, unless they are named or ``--again`` is said. Ends by
writing docs/families.md.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.families.models import families
from benchmarks.families.page import PAGE, page, reason, verdict
from benchmarks.families.survey import SECONDS, server, survey

CODE = ("gacfx", "passes", "benchmarks/families")
"""What results depend on."""


def main(given: Sequence[str] | None = None) -> int:
    """0 when every type was tried."""
    parser = argparse.ArgumentParser(description="How far does gacfx go with each family?")
    parser.add_argument("--types", nargs="+", default=[], help="run these, whatever is known")
    parser.add_argument("--again", action="store_true", help="run all, whatever is known")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of the processor, for one")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "families.json")
    asked = parser.parse_args(given)
    every = families()
    if wrong := [name for name in asked.types if name not in every]:
        parser.error(f"no such type: {', '.join(wrong)}")
    commit = record.last_commit(*CODE)
    rows, current = known(asked.out, commit)
    wanted = asked.types or [name for name in every if asked.again or name not in current]
    context = server()
    for at, name in enumerate(wanted, 1):
        rows[name] = {**survey(context, every[name], asked.seconds), "commit": commit}
        ordered = [rows[each] for each in every if each in rows]
        write(ordered, asked.out)
        print(f"{at:3}/{len(wanted)} {name:24} {verdict(rows[name]):18} {reason(rows[name])}")
    if asked.out == record.RESULTS / "families.json":
        PAGE.write_text(page(json.loads(asked.out.read_text())), encoding="utf-8")
    return 0 if all(name in rows for name in every) else 1


def known(out: Path, commit: str | None) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Rows that were written by type, and the types whose code and versions are those of now."""
    if not out.is_file():
        return {}, set()
    found = json.loads(out.read_text())
    rows = {row["name"]: row for row in found["families"]}
    if found["versions"] != record.versions():  # what is written next names those of now
        rows = {name: {**row, "commit": None} for name, row in rows.items()}
    if commit is None:
        return rows, set()
    return rows, {name for name, row in rows.items() if row["commit"] == commit}


def write(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """The results so far, of this command and of those before it."""
    command = "python -m benchmarks.families"
    record.write("families", {"command": command, "families": list(rows)}, out)


if __name__ == "__main__":
    raise SystemExit(main())
