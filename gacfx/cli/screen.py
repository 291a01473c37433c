"""The terminal: one console for results, progress bars on the error stream."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

WIDTH = 240
"""Columns when the output is no terminal, so that a pipe breaks few lines."""


def console() -> Console:
    """Results: colour only on a terminal, NO_COLOR respected; COLUMNS is the width, also of pipes.

    rich takes COLUMNS for itself, but falls back to 80 columns where it sees no terminal.
    """
    out = Console(highlight=False, markup=False, soft_wrap=False)
    if out.is_terminal or _columns_given():
        return out
    return Console(highlight=False, markup=False, width=WIDTH)


def _columns_given() -> bool:
    given = os.environ.get("COLUMNS", "")
    return given.isdecimal() and int(given) > 0


def say_text(line: str, json: bool) -> None:
    """Print how much text was used above the results; beside JSON it goes to the error stream."""
    if line:
        print(line, file=sys.stderr if json else sys.stdout)


def quiet_transformers() -> None:
    """No progress bars, advice or retries of transformers and its hub between our own lines."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    hub.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def progress(*, live: bool = True) -> Iterator[Any]:
    """A callback (stage, done, total) that moves one bar for each stage.

    Args:
        live: draw again and again meanwhile; that thread would be in times that are measured.
    """
    out, silent = Console(stderr=True), not sys.stderr.isatty()
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, disable=silent, auto_refresh=live) as bars:
        tasks: dict[str, Any] = {}

        def move(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total, refresh=not live)

        yield move
