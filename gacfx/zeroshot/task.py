"""Zero-shot tasks: what a model is asked, one JSON file for each in ``tasks/``."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gacfx.core.names import printable
from gacfx.errors import TaskError

FORMAT, VERSION = "gacfx-task", 1
QUERY = "{query}"
"""Stands in a prompt for the query of an item."""
_FOLDER = Path(__file__).parent / "tasks"


@dataclass(frozen=True, slots=True)
class Task:
    """A task of multiple choice, scored without examples."""

    name: str
    """Also lm-eval's name of it."""
    what: str
    """What it asks, for a person."""
    source: str
    query: str
    """What the query of an item holds."""
    prompt: str
    """What the model reads, with ``{query}`` for the query of the item."""
    delimiter: str
    """What stands between the prompt and an answer; it is scored with the answer."""

    def prompt_of(self, query: str) -> str:
        """What the model reads before an answer; line ends and blanks behind the query go."""
        return self.prompt.replace(QUERY, query.rstrip())


@cache
def known_tasks() -> tuple[Task, ...]:
    """All tasks that come with gacfx, by name."""
    files = sorted(_FOLDER.glob("*.json"))
    return tuple(task_of(json.loads(file.read_text(encoding="utf-8"))) for file in files)


def task_of(raw: dict[str, Any]) -> Task:
    """The task that a file describes.

    Raises:
        TaskError: another format, or a prompt without a place for the query.
    """
    said = dict(raw)
    if (said.pop("format", None), said.pop("version", None)) != (FORMAT, VERSION):
        raise TaskError(f"no task: format {FORMAT}, version {VERSION} is read")
    task = Task(**said)
    if QUERY not in task.prompt:
        raise TaskError(f"task {task.name}: the prompt {task.prompt!r} has no {QUERY}")
    return task


def find_tasks(names: Iterable[str]) -> tuple[Task, ...]:
    """The tasks of these names, in their order, each once.

    Raises:
        TaskError: there is no such task; lists those that there are. Or no name is given.
    """
    known = {task.name: task for task in known_tasks()}
    asked = tuple(dict.fromkeys(names))
    if not asked:
        raise TaskError(f"no task is named; known: {', '.join(known)}")
    for name in asked:
        if name not in known:
            raise TaskError(f"no task {printable(repr(name))}; known: {', '.join(known)}")
    return tuple(known[name] for name in asked)
