"""``gacfx heal``: a compressed checkpoint learns from its dense model, or stays as it is."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gacfx.cli import options
from gacfx.errors import CheckpointError, NotHealed


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "heal", "train what compression left of a model, against the dense one", run
    )
    command.add_argument("checkpoint", help="folder of gacfx compress")
    command.add_argument(
        "--against", metavar="MODEL", required=True, help="dense model that it was made of"
    )
    command.add_argument(
        "--calibration", metavar="FILE", required=True, help=".jsonl or .txt text to learn from"
    )
    command.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.add_argument(
        "--tokens", metavar="N", help="most tokens to train on: 500k (default: 1M)"
    )
    command.add_argument(
        "--minutes",
        type=options.above_0,
        metavar="N",
        help="most minutes that are planned for on this machine (default: 30)",
    )
    command.add_argument(
        "--window", type=options.positive, metavar="N", help="longest window, tokens (default: 512)"
    )
    command.add_argument(
        "--step-tokens", type=options.positive, metavar="N", help="tokens of a step (default: 512)"
    )
    command.add_argument(
        "--rate",
        action="append",
        default=[],
        type=options.above_0,
        metavar="X",
        help="learning rate to try, as a share of the size of each tensor; give it again for "
        "further ones (default: up to four of 3e-5 ... 3e-3, with --lora of 1e-4 ... 1e-2)",
    )
    command.add_argument(
        "--lora",
        type=options.positive,
        metavar="RANK",
        help="train LoRA adapters of this rank and merge them (needs the extra lora)",
    )
    command.add_argument("--seed", type=options.whole, metavar="N", help="of the order of the text")
    command.add_argument("--force", action="store_true", help="whatever the dense model's loss is")
    command.add_argument(
        "--work",
        metavar="DIR",
        help="folder from which a killed run goes on (default: OUT.work, removed when all is done)",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with a run that was stopped, or refuse"
    )
    command.add_argument("--json", action="store_true", help="what healing did as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Heal, save and print.

    Raises:
        NotHealed: nothing came out better; no folder is written.
        GacError: as the parts say.
    """
    from gacfx import api
    from gacfx.calibration.text import read_documents
    from gacfx.checkpoint.save import check_target
    from gacfx.cli import compress, plan_files, screen
    from gacfx.healing.door import heal
    from gacfx.healing.source import check_compressed
    from gacfx.report.healing_view import healing_view

    settings, out = settings_of(arguments), Path(arguments.out).expanduser()
    check_compressed(Path(arguments.checkpoint).expanduser())
    check_target(out, overwrite=arguments.overwrite)
    for source in (arguments.checkpoint, arguments.against):
        plan_files.check_source(source, out)
    documents = read_documents(arguments.calibration)
    work = compress.work_folder(arguments, out)
    screen.quiet_transformers()
    try:
        with compress.resumable(work):
            with screen.progress() as move:
                healed = heal(
                    arguments.checkpoint,
                    against=arguments.against,
                    calibration=documents,
                    settings=settings,
                    force=arguments.force,
                    work=work,
                    temporary=not arguments.work,
                    progress=move,
                )
            folder = api.save(healed, out, overwrite=arguments.overwrite)
    except NotHealed as error:
        error.__notes__ = []  # nothing is left to go on with
        forget(work)
        raise
    forget(work)
    if arguments.json:
        print(json.dumps({**healed.healing, "seconds": round(healed.seconds, 1)}, indent=1))
        return 0
    screen.console().print(healing_view(healed.healing, healed.seconds))
    print(f"\nwrote {folder}; load it with plain transformers after: import gacfx")
    return 0


def settings_of(arguments: argparse.Namespace) -> Any:
    """What the options ask for.

    Raises:
        HealingError: a number that makes no sense.
    """
    from gacfx.healing.settings import Healing

    names = ("tokens", "minutes", "window", "step_tokens", "lora", "seed")
    said = {name: getattr(arguments, name) for name in names}
    given = {name: found for name, found in said.items() if found is not None}
    return Healing(rates=tuple(arguments.rate), **given)


def forget(work: Path) -> None:
    """Remove a work folder that nobody named."""
    from gacfx.core.work_folder import remove_work

    try:
        remove_work(work)
    except CheckpointError as error:  # the result is there
        print(f"gacfx heal: {error}; remove it yourself", file=sys.stderr)
