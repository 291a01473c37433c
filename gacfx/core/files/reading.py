"""Read small text files that somebody named: regular files of a size that makes sense.

Opening a pipe waits for a writer, and a device may have no end; neither is ever opened.
"""

import json
from pathlib import Path
from typing import Any

from gacfx.errors import CheckpointError

MOST_BYTES = 1 << 28
"""Of a JSON file; the plan of a model with 60,000 weights has less than a tenth of it."""


def check_regular(path: Path) -> None:
    """Nothing when ``path`` is a file with contents, or a link to one.

    Raises:
        CheckpointError: there is none, or it is a folder, a pipe, a device, or empty, as the files
            of /proc are.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: cannot be read: it is a folder; name a file")
    if not path.exists():
        raise CheckpointError(f"{path}: cannot be read: No such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: cannot be read: it is a pipe or a device; name a file")
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: cannot be read: it is empty; write it again")


def read_text(path: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """The UTF-8 text of a regular file.

    Raises:
        CheckpointError: no such file, no UTF-8, or more than ``most_bytes``.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > most_bytes:
        raise CheckpointError(
            f"{path}: cannot be read: {size:,} bytes, {most_bytes:,} at most; is it another file?"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def read_table(path: Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON table in a regular file.

    Raises:
        CheckpointError: as :func:`read_text`, no JSON, or a JSON text that is no table.
    """
    try:
        raw = json.loads(read_text(path, most_bytes=most_bytes))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: is not a JSON table")
    return raw
