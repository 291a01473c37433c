"""``gacfx run``: any command line, in which every Python can load gacfx checkpoints."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gacfx.cli import options

STARTUP = Path(__file__).parents[1] / "_startup"
"""Folder of the ``sitecustomize`` that imports gacfx."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "run", "run a command whose Pythons load gacfx checkpoints", run
    )
    command.usage = "gacfx run [-h] -- COMMAND ..."
    command.epilog = "example: gacfx run -- lm_eval --model hf --model_args pretrained=small ..."
    command.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="COMMAND", help="and its options"
    )


def run(arguments: argparse.Namespace) -> int:
    """Become the command; returns only if it cannot be started."""
    command = list(arguments.rest)
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        raise options.WrongUse("name a command, for example: gacfx run -- python serve.py")
    if not command[0]:
        raise options.WrongUse("the command is empty; name one, or check the variable it came from")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by whoever started this
            stream.flush()
    try:
        os.execvpe(command[0], command, environment(os.environ))
    except FileNotFoundError:
        print(f"gacfx run: {command[0]}: there is no such command", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"gacfx run: {command[0]}: cannot be run: {error.strerror}", file=sys.stderr)
        return 126


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """``given`` with the start-up folder at the front of PYTHONPATH."""
    before = given.get("PYTHONPATH")
    return {**given, "PYTHONPATH": os.pathsep.join(filter(None, (str(STARTUP), before)))}
