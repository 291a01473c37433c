"""Options that several commands share, and how they are read."""

import argparse
import re
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

from gacfx.cli import own_sizes
from gacfx.core.defaults import METHOD, MODEL_DTYPES, RATIO
from gacfx.core.search import Bound, Candidates, Prune, Quant, Search, Solver

if TYPE_CHECKING:
    import torch

    from gacfx.calibration.counting import Counting
    from gacfx.core.goal import Goal
    from gacfx.core.sites import Workload
    from gacfx.hardware.profile import Profile
    from gacfx.request import Request

CANDIDATES = get_args(Candidates)
SOLVERS, QUANTS, PRUNES = get_args(Solver), get_args(Quant), get_args(Prune)


class WrongUse(Exception):  # noqa: N818 - exit code 2
    """Options that do not go together, or one that is missing."""


def add_gpu(command: argparse.ArgumentParser, default: str | None = "h200") -> None:
    """``--gpu`` and the versions that its rules depend on."""
    said = default or "the plan's"
    known = f"one of gacfx profiles, or a file (default: {said})"
    command.add_argument("--gpu", default=default, help=known)
    command.add_argument("--torch", metavar="X.Y", type=version, help="torch on the target machine")
    command.add_argument("--cudnn", metavar="N", type=whole, help="cuDNN there, for example 91900")


def add_dtype(command: argparse.ArgumentParser) -> None:
    """``--dtype``, for models that are published in another."""
    command.add_argument("--dtype", choices=MODEL_DTYPES, help="of the model (default: its own)")


def add_workload(command: argparse.ArgumentParser) -> None:
    """What runs on the GPU."""
    command.add_argument("--batch", type=positive, default=1, help="sequences (default: 1)")
    command.add_argument("--seq", type=positive, default=1024, help="tokens each (default: 1024)")
    command.add_argument("--mode", choices=("prefill", "decode"), default="prefill")
    command.add_argument("--exec", dest="execution", choices=("eager", "compiled"), default="eager")


def add_planning(command: argparse.ArgumentParser) -> None:
    """How much to remove, by which method, and how sizes are searched."""
    command.add_argument(
        "--method", help=f"one of gacfx methods, or as asvd:alpha=0.3 (default: {METHOD})"
    )
    add_goal(command)
    add_calibration(command)
    add_search(command)


def add_calibration(command: argparse.ArgumentParser) -> None:
    """Which weights are measured, on which text."""
    command.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN", help="modules to leave dense"
    )
    command.add_argument("--calibration", metavar="FILE", help=".jsonl or .txt text")
    command.add_argument(
        "--calibration-tokens",
        metavar="N",
        type=tokens,
        help="use at most N tokens of it: 500k, or all (default: 256 windows of at most 2048)",
    )
    command.add_argument(
        "--count",
        metavar="RULE",
        type=counting,
        help="which tokens count in moments, as first=4,last=2,clip=3: positions of each window "
        "that do not, and the most of a gradient in mean norms (default: all, as they are)",
    )
    command.add_argument("--seed", type=whole, metavar="N", help="of sampled labels (default: 0)")
    command.add_argument("--force", action="store_true", help="go on whatever the losses are")


def add_work(command: argparse.ArgumentParser, said: str) -> None:
    """``--work``: where a long computation keeps what it has, and ``--disk``: how much of it."""
    command.add_argument("--work", metavar="DIR", help=said)
    add_disk(command)


def add_disk(command: argparse.ArgumentParser) -> None:
    """How much a work folder may take, and where its layers compute."""
    command.add_argument(
        "--disk",
        metavar="N",
        type=nbytes,
        help="most bytes of that folder, as 60GB: decompositions that do not fit are made again",
    )
    command.add_argument(
        "--device",
        metavar="NAME",
        help="where each layer computes while it is at work, as cuda (default: the CPU)",
    )


def add_goal(command: argparse.ArgumentParser) -> None:
    """How much may remain, in one of three ways."""
    goal = command.add_mutually_exclusive_group()
    goal.add_argument("--ratio", help="share to remove, 0.2 is 20 %% (the default)")
    goal.add_argument("--params", metavar="N", help="keep at most N in the whole model: 6.5G")
    goal.add_argument("--bytes", metavar="N", help="keep at most N of weights: 12GiB")
    command.add_argument(
        "--ratio-of", choices=("targeted", "model"), help="what --ratio counts (default: targeted)"
    )


def add_search(command: argparse.ArgumentParser) -> None:
    """Which sizes are offered, what they are worth, what else must hold, and who chooses."""
    group = command.add_argument_group("search")
    own_sizes.add(group)
    group.add_argument("--align", type=positive, help="rank steps instead of the profile's")
    worth = "what a rank is worth: auto, or one of gacfx methods (default: auto)"
    group.add_argument("--value", metavar="NAME", help=worth)
    group.add_argument("--candidates", choices=CANDIDATES, help="all ranks, or some near d*")
    group.add_argument("--window", type=positive, metavar="N", help="so many near d* (default: 8)")
    group.add_argument(
        "--form",
        metavar="FORM",
        help="how a rank is stored: pair of factors, pivot, or auto, the better one (default)",
    )
    group.add_argument(
        "--prune",
        choices=PRUNES,
        help="sizes of MLPs and attentions: none (default), only, either a size or ranks, both at "
        "once, cautious about both, or auto, the best of the last three",
    )
    group.add_argument(
        "--corrections",
        type=whole,
        default=0,
        metavar="N",
        help="rounds in which what parts of the plan cost in the model corrects their losses, such "
        "as 3 (default: 0)",
    )
    group.add_argument("--solver", choices=SOLVERS, help="who chooses (default: core)")
    group.add_argument(
        "--gap", type=above_0, metavar="X", help="stop so close to the best, in nats"
    )
    group.add_argument("--time-limit", type=above_0, metavar="S", help="seconds to search, at most")
    group.add_argument("--paper", action="store_true", help="GAC-v2: paper, window and dp")
    group.add_argument(
        "--tp", type=positive, default=1, metavar="N", help="devices that share a rank"
    )
    group.add_argument("--quant", choices=QUANTS, help="keep sizes legal for this format")
    group.add_argument(
        "--bound",
        action="append",
        default=[],
        metavar="PATTERN=LEAST:MOST",
        help="ranks that matching modules may have; with --prune channels or key-value heads, too",
    )
    group.add_argument("--uniform", action="store_true", help="one rank for all layers of a kind")
    add_limits(group)


def add_limits(group: "argparse._ArgumentGroup") -> None:
    """Further budgets and rules."""
    latency = group.add_mutually_exclusive_group()
    latency.add_argument(
        "--latency-share",
        type=above_0,
        metavar="X",
        help="second budget: share of the dense weights' forecast time, rule-based",
    )
    latency.add_argument(
        "--latency-us",
        type=above_0,
        metavar="N",
        help="second budget: microseconds of forecast time, rule-based",
    )
    group.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="PASS",
        help="a pass that adds a limit or a rule: 'limit-latency{share=0.9 mode=decode}'",
    )


def request_of(arguments: argparse.Namespace) -> "Request":
    """What ``plan`` and ``compress`` are asked for.

    Raises:
        WrongUse: options that do not go together.
        GacError: a value that cannot be.
    """
    from gacfx.request import Request

    if said := own_sizes.problem(arguments):
        raise WrongUse(said)
    judged = {"max_loss": getattr(arguments, "max_loss", None)}
    return Request(
        goal=goal_of(arguments),
        method=METHOD if arguments.method is None else arguments.method,
        gpu=profile_of(arguments),
        search=search_of(arguments),
        sizes=arguments.sizes,
        workload=workload_of(arguments),
        skip=tuple(arguments.skip),
        seed=arguments.seed or 0,
        force=arguments.force,
        **{name: found for name, found in judged.items() if found is not None},
    )


def has_goal(arguments: argparse.Namespace) -> bool:
    """A budget is asked for, not only the default one."""
    given = (arguments.ratio, arguments.params, arguments.bytes, arguments.ratio_of)
    return any(found is not None for found in given)


def goal_of(arguments: argparse.Namespace) -> "Goal":
    """The budget that the options ask for.

    Raises:
        WrongUse: ``--ratio-of`` without a ratio to speak of.
        PlanError: a number that cannot be read.
    """
    from gacfx.core.goal import Goal

    if arguments.params is None and arguments.bytes is None:
        ratio = RATIO if arguments.ratio is None else arguments.ratio
        return Goal(ratio=ratio, of=arguments.ratio_of or "targeted")
    if arguments.ratio_of is not None:
        raise WrongUse("--ratio-of goes with --ratio; --params and --bytes mean the whole model")
    return Goal(params=arguments.params, nbytes=arguments.bytes)


def search_of(arguments: argparse.Namespace) -> "Search":
    """The search that the options describe.

    Raises:
        WrongUse: ``--paper`` beside an option that it stands for, ``--window`` without a window.
        PlanError: a bound that cannot be read, or a combination that cannot be.
    """
    names = ("value", "candidates", "solver", "form", "prune")
    said = {name: getattr(arguments, name) for name in names}
    said = {name: found for name, found in said.items() if found is not None}
    prune = said.pop("prune", None) or default_prune(arguments.method or METHOD)
    if arguments.paper and said:
        given = ", ".join(f"--{name}" for name in said)
        raise WrongUse(f"--paper says value, candidates, solver and form itself; leave out {given}")
    if arguments.window is not None:
        said.setdefault("candidates", "window")
    if arguments.window is not None and said["candidates"] != "window":
        raise WrongUse("--window goes with --candidates window")
    return replace(
        Search.paper(prune) if arguments.paper else Search(prune=prune, **said),
        corrections=arguments.corrections,
        align=arguments.align,
        window=arguments.window or Search.window,
        tp=arguments.tp,
        quant=arguments.quant,
        bounds=tuple(Bound.parse(text) for text in arguments.bound),
        uniform=arguments.uniform,
        gap=arguments.gap,
        time_limit=arguments.time_limit,
        limits=(*_latency(arguments), *arguments.limit),
    )


def default_prune(method: str) -> "Prune":
    """What becomes of structures where nothing is said: nothing, if the method makes ranks."""
    from gacfx.compressors.methods import METHODS

    found = METHODS.seek(method)
    return "none" if found is None or found.makes_ranks else "only"


def _latency(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The limit on latency for the workload of the command, if one is asked for."""
    run = f"mode={arguments.mode} batch={arguments.batch} seq={arguments.seq}"
    if arguments.latency_share is not None:
        return (f"limit-latency{{share={arguments.latency_share} {run}}}",)
    if arguments.latency_us is not None:
        return (f"limit-latency{{us={arguments.latency_us} {run}}}",)
    return ()


def profile_of(arguments: argparse.Namespace) -> "Profile":
    """The profile that the options name."""
    from gacfx.hardware.profile import load

    return load(arguments.gpu, torch=arguments.torch, cudnn=arguments.cudnn)


def dtype_of(arguments: argparse.Namespace) -> "torch.dtype | None":
    """The dtype that the model is asked for in, if it is."""
    from gacfx.tracing.capture import torch_dtype

    return None if arguments.dtype is None else torch_dtype(arguments.dtype)


def workload_of(arguments: argparse.Namespace) -> "Workload":
    """The workload that the options describe."""
    from gacfx.core.sites import Workload

    return Workload(arguments.batch, arguments.seq, arguments.mode, arguments.execution)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    found = whole(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{found} is not at least 1")
    return found


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number such as 8") from None


def tokens(text: str) -> str:
    """A number of tokens as it stands, once it is known to be one."""
    from gacfx.calibration.text import token_limit
    from gacfx.errors import CalibrationError

    try:
        token_limit(text, 1)
    except CalibrationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def counting(text: str) -> "Counting":
    """Which tokens count."""
    from gacfx.calibration.counting import Counting
    from gacfx.errors import CalibrationError

    try:
        return Counting.parse(text)
    except CalibrationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def nbytes(text: str) -> int:
    """A number of bytes."""
    from gacfx.core.goal import read_bytes
    from gacfx.errors import PlanError

    try:
        return read_bytes(text)
    except PlanError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def above_0(text: str) -> float:
    """A number above 0."""
    found = number(text)
    if not (isfinite(found) and found > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return found


def number(text: str) -> float:
    """A number; a percentage is told how it is written here."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        share = f"; write {float(text.removesuffix('%')) / 100:g}"
    except ValueError:
        share = " such as 0.8"
    raise argparse.ArgumentTypeError(f"{text!r} is not a number{share}")


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
