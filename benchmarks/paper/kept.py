"""Steps of a long benchmark, each kept as a JSON file: what is there is not done again.

found = remembered(work / "asvd.quality.json", {"tokens": 20480}, make)
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gacfx.core.files.atomic import replacing
from gacfx.core.files.reading import read_table
from gacfx.core.files.targets import writing
from gacfx.errors import CheckpointError

Found = dict[str, Any]
"""Plain JSON values."""
KEY, FOUND, SECONDS = "key", "found", "seconds"
FAILED = "failed"
"""In what a step found: why there is nothing else."""


def remembered(path: Path, key: Mapping[str, Any], make: Callable[[], Found]) -> Found:
    """What ``make`` found under this key; made once, with ``seconds`` that it took.

    Args:
        path: of the file; written whole or not at all.
        key: all that the result depends on, as plain JSON values. A file of another key is made
            again.
        make: the step.

    Raises:
        CheckpointError: the file is no such record, or cannot be written.
    """
    known = recall(path, key)
    if known is not None:
        return known
    begin = time.perf_counter()
    found = {**make(), SECONDS: round(time.perf_counter() - begin, 1)}
    write(path, {KEY: dict(key), FOUND: found})
    return found


def recall(path: Path, key: Mapping[str, Any]) -> Found | None:
    """What is kept under this key; None where nothing is, or what is there is of another key. A
    key that was kept with more entries is this one, too.

    Raises:
        CheckpointError: the file is no such record.
    """
    if not path.exists():
        return None
    record = read_table(path)
    if set(record) != {KEY, FOUND} or not all(isinstance(each, dict) for each in record.values()):
        raise CheckpointError(f"{path}: is no step of this benchmark; remove it, or name a folder")
    asked, kept = json.loads(json.dumps(dict(key))), record[KEY]
    same = all(name in kept and kept[name] == value for name, value in asked.items())
    return record[FOUND] if same else None


def write(path: Path, record: Mapping[str, Any]) -> Path:
    """The record as a JSON file, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return path
