"""``gacfx statistics``: calibrate a model into a work folder, for plans that follow."""

import argparse
from pathlib import Path
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "statistics", "calibrate a model into a work folder, for plans that follow", run
    )
    command.add_argument("model", help="checkpoint folder or name")
    options.add_calibration(command)
    options.add_dtype(command)
    command.add_argument(
        "--prune", action="store_true", help="also what sizes of MLPs and attentions need"
    )
    command.add_argument(
        "--work", metavar="DIR", required=True, help="folder to fill or to fill up"
    )
    options.add_disk(command)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, and say what is there."""
    from gacfx import api
    from gacfx.calibration.text import usage
    from gacfx.cli import made, screen
    from gacfx.cli.compress import resumable
    from gacfx.core.paging import lean, pages_of
    from gacfx.core.work_folder import check_work

    if arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt)")
    work = Path(arguments.work).expanduser()
    check_work(work)
    with resumable(work, "the same command"), lean(pages_of(arguments.model)):
        model, tokenizer, corpus = made.calibration_text(arguments)
        with screen.progress() as move:
            study = api.calibrate(
                model,
                tokenizer,
                calibration=corpus,
                skip=tuple(arguments.skip),
                seed=arguments.seed or 0,
                structures=arguments.prune,
                progress=move,
                force=arguments.force,
                work=work,
                disk=arguments.disk,
            )
    weights = len(study.full.statistics.moments)
    size = sum(path.stat().st_size for path in work.iterdir())
    print(usage(corpus))
    print(f"{work}: statistics of {weights} weights, {size / 2**20:,.1f} MiB")
    print(f"plan with: gacfx plan {arguments.model} --calibration FILE --work {arguments.work}")
    return 0
