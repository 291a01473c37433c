"""Python programs in processes that begin with torch, transformers and gacfx imported.

A fresh interpreter takes seconds to import them; the tests that need a fresh one start one, and
those of what plain transformers does have :mod:`tests.stock`.
"""

import multiprocessing as mp
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRELOADED = ["transformers", "transformers.models.auto.modeling_auto", "gacfx.cli", "gacfx.api"]


@dataclass(frozen=True)
class Done:
    """What became of a program."""

    returncode: int
    """Negative where a signal ended it."""
    stdout: str
    stderr: str


def context() -> Any:
    """The multiprocessing context whose processes begin like that."""
    found = mp.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def start(words: Sequence[str], out: Path) -> Any:
    """``python WORDS`` in the root of the checkout; words are ``FILE ...`` or ``-m MODULE ...``.

    Args:
        out: folder for what it prints, in ``stdout`` and ``stderr``.

    Returns:
        A running multiprocessing.Process.
    """
    process = context().Process(target=_program, args=(list(words), out))
    process.start()
    return process


def run(words: Sequence[str]) -> Done:
    """As :func:`start`, to its end."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(words, Path(folder))
        process.join()
        said = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
    return Done(process.exitcode, *said)


def _program(words: list[str], out: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(ROOT)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
