"""``gacfx verify``: whether every file of a checkpoint is what was written."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "verify", "check every file of a compressed checkpoint by its checksum", run
    )
    command.add_argument("folder", metavar="DIR", help="written by gacfx compress")
    command.add_argument("--json", action="store_true", help="what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Check and print; 1 when a file is not what was written, or one more makes another model."""
    from gacfx.checkpoint.checksums import verify_checksums
    from gacfx.core.names import printable

    found = verify_checksums(Path(arguments.folder))
    if arguments.json:
        print(json.dumps({"whole": found.whole, **asdict(found)}, indent=1))
        return 0 if found.whole else 1
    notes = {
        "changed": found.changed,
        "missing": found.missing,
        "leads out of the folder, not followed": found.links,
        "added, and a loader takes it for the model": found.taken,
        "added, no fault": found.added,
    }
    for note, names in notes.items():
        for name in names:
            print(f"{printable(name, 300)}: {note}")
    bad = len(found.changed) + len(found.missing) + len(found.links)
    if found.taken and not bad:
        print(f"{arguments.folder}: {len(found.taken)} files of the model were not written with it")
        return 1
    if bad:
        print(f"{arguments.folder}: {bad} of {found.files} files are not as they were written")
        return 1
    print(f"{arguments.folder}: all {found.files} files are as they were written")
    return 0
