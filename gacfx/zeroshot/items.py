"""Items of a task from a folder of files that somebody has: one JSON object in each line."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import TypeGuard

from gacfx.core.files.reading import read_text
from gacfx.errors import TaskError
from gacfx.zeroshot.task import Task, find_tasks

FORM = '{"query": "...", "choices": ["...", "..."], "gold": 0}'


@dataclass(frozen=True, slots=True)
class Item:
    """One question."""

    query: str
    choices: tuple[str, ...]
    """At least two answers."""
    gold: int
    """Place of the right one, from 0."""


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task and its items."""

    task: Task
    items: tuple[Item, ...] | None
    """None: lm-eval's own definition of the task, with the data set that it downloads."""
    file: str | None = None
    """Where the items were read."""


def read_tasks(names: Iterable[str], data: str | Path | None = None) -> tuple[TaskData, ...]:
    """The tasks of these names with their items.

    Args:
        names: of tasks, see :func:`gacfx.zeroshot.known_tasks`.
        data: folder with ``NAME.jsonl`` for each task, or ``NAME_COUNT.jsonl`` where it is a part
            of the data set; None takes lm-eval's own definitions and downloads.

    Raises:
        TaskError: an unknown task, no such folder or file, or a line that is no item.
        CheckpointError: a file that cannot be read.
    """
    tasks = find_tasks(names)
    if data is None:
        return tuple(TaskData(task, None) for task in tasks)
    files = [data_file(Path(data), task.name) for task in tasks]
    return tuple(
        TaskData(task, read_items(file), str(file)) for task, file in zip(tasks, files, strict=True)
    )


def data_file(folder: Path, name: str) -> Path:
    """``NAME.jsonl`` of a folder, or its only ``NAME_COUNT.jsonl``.

    Raises:
        TaskError: no such folder, or no such file in it, or several parts.
    """
    if not folder.is_dir():
        why = "is a file; name its folder" if folder.exists() else "there is no such folder"
        raise TaskError(f"{folder}: {why}")
    if (whole := folder / f"{name}.jsonl").exists():
        return whole
    part = re.compile(rf"{re.escape(name)}_[0-9]+\.jsonl")
    parts = sorted(path for path in folder.iterdir() if part.fullmatch(path.name))
    if not parts:
        raise TaskError(f"{folder}: has no {name}.jsonl; each line is {FORM}")
    if len(parts) > 1:
        there = ", ".join(path.name for path in parts)
        raise TaskError(f"{folder}: has several parts of {name}: {there}; leave one")
    return parts[0]


def read_items(file: Path) -> tuple[Item, ...]:
    """The items of a file, in its order; blank lines are skipped.

    Raises:
        TaskError: a line that is no item, with its number; or no item at all.
        CheckpointError: the file cannot be read.
    """
    lines = read_text(file).removeprefix("\ufeff").split("\n")  # a string may hold a raw U+2028
    items = tuple(
        item_of(line, f"{file}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not items:
        raise TaskError(f"{file}: holds no item; each line is {FORM}")
    return items


def item_of(line: str, where: str) -> Item:
    """The item of one line.

    Raises:
        TaskError: no JSON, other fields, fewer than two answers, or a gold that is none of them.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where}: not JSON ({error}); mend or remove the line") from error
    if not isinstance(raw, dict):
        raise TaskError(f"{where}: {short(raw)} is no item; each line is {FORM}")
    query, choices, gold = (raw.get(name) for name in ("query", "choices", "gold"))
    if not _is_text(query):
        raise TaskError(f"{where}: query {short(query)} is no text; each line is {FORM}")
    if not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        raise TaskError(f"{where}: choices {short(choices)} are not two or more texts")
    if type(gold) is not int or not 0 <= gold < len(choices):
        raise TaskError(
            f"{where}: gold {short(gold)} is no place in {len(choices)} choices, from 0"
        )
    return Item(query, tuple(choices), gold)


def _is_text(value: object) -> TypeGuard[str]:
    """Some text that a tokenizer can encode, which half a surrogate pair is not."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
