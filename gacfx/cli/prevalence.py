"""``gacfx prevalence``: how many irregular dimensions importance proxies make of a model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.cli import options
from gacfx.core.defaults import PREVALENCE_RATIOS, PROXIES

if TYPE_CHECKING:
    from gacfx.prevalence import Prevalence
    from gacfx.work import Work


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands,
        "prevalence",
        "count the irregular ranks that importance proxies make; nothing is compressed",
        run,
    )
    command.add_argument("model", help="dense checkpoint folder or name, with its weights")
    command.add_argument(
        "--ratios",
        nargs="+",
        metavar="R",
        help=f"shares to remove (default: {' '.join(PREVALENCE_RATIOS)})",
    )
    command.add_argument(
        "--proxies",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(PROXIES)} (default: all; without --calibration magnitude)",
    )
    command.add_argument(
        "--normalize",
        choices=("params", "none"),
        default="params",
        help="importance of one parameter (default), or of whole weights, as the papers print it",
    )
    options.add_calibration(command)
    options.add_dtype(command)
    options.add_work(command, "gather statistics layer by layer into this folder, for large models")
    command.add_argument("--json", action="store_true", help="everything as JSON, ranks included")
    command.add_argument("--plot", metavar="FILE", help="draw it, .svg or .png")
    command.add_argument("--overwrite", action="store_true", help="replace an existing FILE")


def run(arguments: argparse.Namespace) -> int:
    """Count, print and draw."""
    from gacfx.cli import screen
    from gacfx.core.files.targets import check_file
    from gacfx.report import drawing
    from gacfx.report.prevalence_plot import prevalence_plot
    from gacfx.report.prevalence_view import prevalence_view

    check(arguments)
    plot = None if arguments.plot is None else Path(arguments.plot)
    if plot is not None:  # before anything takes long
        drawing.check_target(plot)
        check_file(plot, overwrite=arguments.overwrite)
    found, said = measured(arguments)
    screen.say_text(said, arguments.json)
    if arguments.json:
        print(json.dumps(found.to_dict(), allow_nan=False))
    else:
        screen.console().print(prevalence_view(found))
    if plot is not None:
        prevalence_plot(found, plot, overwrite=arguments.overwrite)
        if not arguments.json:
            print(f"\nwrote {plot}")
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Nothing when the options go together.

    Raises:
        WrongUse: they do not.
    """
    if arguments.calibration is None:
        needless = {
            "--calibration-tokens": arguments.calibration_tokens,
            "--count": arguments.count,
            "--seed": arguments.seed,
            "--force": arguments.force or None,
            "--work": arguments.work,
        }
        if said := [name for name, given in needless.items() if given is not None]:
            raise options.WrongUse(f"{', '.join(said)}: goes with --calibration")
    for name in ("disk", "device"):
        if arguments.work is None and getattr(arguments, name) is not None:
            raise options.WrongUse(f"--{name} goes with the folder of --work; name one")


def measured(arguments: argparse.Namespace) -> "tuple[Prevalence, str]":
    """(what was found, how much of the text was used)."""
    from contextlib import nullcontext

    from gacfx import api
    from gacfx.calibration.text import usage
    from gacfx.checkpoint.load import stored_bytes
    from gacfx.cli import made, screen
    from gacfx.cli.bench import name_of
    from gacfx.core.paging import lean, pages_of
    from gacfx.prevalence import check_asked_for, prevalence

    ratios = arguments.ratios or PREVALENCE_RATIOS
    check_asked_for(arguments.proxies, ratios, calibrated=arguments.calibration is not None)
    check_weights(arguments.model)
    stored_bytes(arguments.model)
    work = work_of(arguments)
    with lean(pages_of(arguments.model)) if work else nullcontext():
        if arguments.calibration is None:
            screen.quiet_transformers()
            model, tokenizer = api.load(arguments.model, dtype=options.dtype_of(arguments))
            corpus = None
        else:
            model, tokenizer, corpus = made.calibration_text(arguments)
        with screen.progress() as move:
            found = prevalence(
                model,
                tokenizer,
                calibration=corpus,
                ratios=ratios,
                proxies=arguments.proxies,
                normalize=arguments.normalize,
                skip=tuple(arguments.skip),
                seed=arguments.seed or 0,
                force=arguments.force,
                name=name_of(arguments.model),
                work=work,
                progress=move,
            )
    return found, "" if corpus is None else usage(corpus)


def check_weights(model: str) -> None:
    """Nothing for what may have weights.

    Raises:
        CheckpointError: it is a configuration alone.
    """
    from gacfx.errors import CheckpointError
    from gacfx.tracing.skeleton import known_configs

    path = Path(model)
    if path.suffix == ".json" or (not path.exists() and model in known_configs()):
        raise CheckpointError(
            f"{model}: is a configuration, and importance is that of weights; name a checkpoint "
            "folder, or see gacfx plan --synthetic for made-up ones"
        )


def work_of(arguments: argparse.Namespace) -> "Work | None":
    """The work folder that the options name, which nothing else uses."""
    from gacfx.core.work_folder import check_work
    from gacfx.work import Work

    if arguments.work is None:
        return None
    folder = Path(arguments.work).expanduser()
    check_work(folder)
    return Work(folder, disk=arguments.disk, device=arguments.device)
