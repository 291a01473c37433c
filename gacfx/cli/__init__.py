"""The command line: ``gacfx inspect | plan | explain | diff | compress | eval | bench | ...``.

Exit codes: 0 fine, 1 a check failed or the work could not be done, 2 wrong use, 4 the result would
predict text too badly. Warnings are one line each, on the error stream.
"""

import argparse
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from signal import SIGINT, SIGTERM
from threading import current_thread, main_thread
from typing import NoReturn

from gacfx.cli.options import WrongUse
from gacfx.core.names import printable
from gacfx.errors import GacError, PoorQuality

POOR = 4
"""Exit code of a result that would predict text too badly."""

MOST = 1000
"""Characters of a message."""


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
        with _short_warnings(arguments.command), _stopped_by_signals():
            check_filled(arguments)
            code = int(arguments.run(arguments))
        if sys.stdout is not None:  # closed by whoever started this: nobody wants the tables
            sys.stdout.flush()
        return code
    except GacError as error:
        _say(arguments.command, _noted(str(error), error))
        return POOR if isinstance(error, PoorQuality) else 1
    except WrongUse as error:
        _say(arguments.command, error)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; say nothing
        return 1
    except OSError as error:  # the disk behind the standard output is full, for example
        _say(arguments.command, error)
        with suppress(OSError, AttributeError):
            sys.stdout.close()  # nothing is left that Python would print at its end
        return 1
    except (MemoryError, RuntimeError) as error:
        from gacfx.hardware.measure.memory import is_out_of_memory  # imports torch

        if not is_out_of_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "")
        _say(arguments.command, _noted(f"out of memory: {first}".rstrip(": "), error))
        return 1
    except KeyboardInterrupt as stopped:
        _say(arguments.command, _noted("stopped", stopped))
        return 128 + getattr(stopped, "number", SIGINT)


def check_filled(arguments: argparse.Namespace) -> None:
    """Refuse an empty text, as an unset variable of a shell gives: it is not the default.

    Raises:
        WrongUse: names the option.
    """
    for name, given in vars(arguments).items():
        if given == "":
            raise WrongUse(f"{name.replace('_', '-')} is empty; give a value or leave it out")


def _noted(said: str, error: BaseException) -> str:
    """With what was noted on an error on its way, in one line."""
    return "; ".join([said, *getattr(error, "__notes__", ())])


def _say(command: str, message: object) -> None:
    # Names come from files too: no terminal acts on what is printed of them.
    print(f"gacfx {command}: {printable(message, MOST)}", file=sys.stderr)


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Inside, being asked to end unwinds as Ctrl-C does, so that nothing half-written is left."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    ours = [
        number
        for number in (SIGTERM, getattr(signal, "SIGHUP", SIGTERM))
        if current_thread() is main_thread() and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _short_warnings(command: str) -> Iterator[None]:
    """Warnings as one line, as errors are said, without a place in the source."""
    before = warnings.formatwarning

    def short(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        return f"gacfx {command}: warning: {printable(message, MOST)}\n"

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
        export,
        heal,
        inspect,
        methods,
        pad,
        passes,
        plan,
        prevalence,
        profiles,
        route,
        run,
        slice_hidden,
        statistics,
        verify,
    )

    top = Parser(
        prog="gacfx",
        description="Make compressed LLMs as fast as their parameter count says.",
    )
    top.add_argument("--version", action="version", version=f"gacfx {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    known = (
        inspect,
        plan,
        statistics,
        explain,
        diff,
        compress,
        heal,
        route,
        pad,
        slice_hidden,
        verify,
        export,
        evaluate,
    )
    for module in (*known, run, bench, prevalence, profiles, methods, passes, demo):
        module.add(commands)
    return top
