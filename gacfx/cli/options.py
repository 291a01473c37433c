"""Options that several commands share, and how they are read."""

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gacfx.core.sites import Workload
    from gacfx.hardware.profile import Profile


class WrongUse(Exception):  # noqa: N818 - exit code 2
    """Options that do not go together, or one that is missing."""


def add_gpu(command: argparse.ArgumentParser) -> None:
    """``--gpu`` and the versions that its rules depend on."""
    command.add_argument("--gpu", default="h200", help="profile name or file (default: h200)")
    command.add_argument("--torch", metavar="X.Y", type=version, help="torch on the target machine")
    command.add_argument("--cudnn", metavar="N", type=int, help="cuDNN there, for example 91900")


def add_workload(command: argparse.ArgumentParser) -> None:
    """What runs on the GPU."""
    command.add_argument("--batch", type=positive, default=1, help="sequences (default: 1)")
    command.add_argument("--seq", type=positive, default=1024, help="tokens each (default: 1024)")
    command.add_argument("--mode", choices=("prefill", "decode"), default="prefill")
    command.add_argument("--exec", dest="execution", choices=("eager", "compiled"), default="eager")


def add_planning(command: argparse.ArgumentParser) -> None:
    """How much to remove and by which method."""
    command.add_argument(
        "--method", default="gfwsvd", help="gfwsvd, svd-llm, asvd or svd (default: gfwsvd)"
    )
    command.add_argument("--ratio", default="0.2", help="share to remove, 0.2 is 20 %% (default)")
    command.add_argument("--ratio-of", choices=("targeted", "model"), default="targeted")
    command.add_argument("--align", type=positive, help="rank steps instead of the profile's")
    command.add_argument(
        "--value", choices=("auto", "two-sided", "fisher", "relative"), default="auto"
    )
    command.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN", help="modules to leave dense"
    )
    command.add_argument("--calibration", metavar="FILE", help=".jsonl or .txt text")
    command.add_argument("--seed", type=int, default=0)


def profile_of(arguments: argparse.Namespace) -> "Profile":
    """The profile that the options name."""
    from gacfx.hardware.profile import load

    return load(arguments.gpu, torch=arguments.torch, cudnn=arguments.cudnn)


def workload_of(arguments: argparse.Namespace) -> "Workload":
    """The workload that the options describe."""
    from gacfx.core.sites import Workload

    return Workload(arguments.batch, arguments.seq, arguments.mode, arguments.execution)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def version(text: str) -> tuple[int, int]:
    """(2, 11) for ``2.11`` or ``2.11.0+cu130``."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no version like 2.11")
    return int(found[1]), int(found[2])


def add_command(commands: Any, name: str, help_text: str, run: Any) -> argparse.ArgumentParser:
    """A sub-command whose work is ``run(arguments) -> exit code``."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + "."
    )
    command.set_defaults(run=run)
    return command
