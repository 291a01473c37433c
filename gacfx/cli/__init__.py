"""The command line: ``gacfx inspect | plan | explain | diff | compress | eval | bench | ...``.

Exit codes: 0 fine, 1 a check failed or the work could not be done, 2 wrong use, 4 the result would
predict text too badly. Warnings are one line each, on the error stream.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from gacfx.cli.options import WrongUse
from gacfx.errors import GacError, PoorQuality

POOR = 4
"""Exit code of a result that would predict text too badly."""


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, as every command does, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Exit; the list of all options is a help text, not a reason."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    arguments.words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _short_warnings(arguments.command):
            return int(arguments.run(arguments))
    except GacError as error:
        print(f"gacfx {arguments.command}: {error}", file=sys.stderr)
        return POOR if isinstance(error, PoorQuality) else 1
    except WrongUse as error:
        print(f"gacfx {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; say nothing
        return 1
    except KeyboardInterrupt:
        print(f"gacfx {arguments.command}: stopped", file=sys.stderr)
        return 130


@contextmanager
def _short_warnings(command: str) -> Iterator[None]:
    """Warnings as one line, without a place in the source."""
    before = warnings.formatwarning

    def short(message: Warning | str, *_: Any, **__: Any) -> str:
        return f"gacfx {command}: warning: {' '.join(str(message).split())}\n"

    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = before


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's module adds its own."""
    from gacfx import __version__
    from gacfx.cli import (
        bench,
        compress,
        demo,
        diff,
        evaluate,
        explain,
        inspect,
        passes,
        plan,
        profiles,
    )

    top = Parser(
        prog="gacfx",
        description="Make compressed LLMs as fast as their parameter count says.",
    )
    top.add_argument("--version", action="version", version=f"gacfx {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    known = (inspect, plan, explain, diff, compress, evaluate, bench, profiles, passes, demo)
    for module in known:
        module.add(commands)
    return top
