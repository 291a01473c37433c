"""``gacfx export``: a checkpoint as a folder that needs no gacfx."""

import argparse
from typing import TYPE_CHECKING, Any

from gacfx.cli import options
from gacfx.exports.targets import TARGETS, WITH_CACHE

if TYPE_CHECKING:
    from gacfx.exports.exported import Exported


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "export", "write a checkpoint as a folder that needs no gacfx", run
    )
    command.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="written by gacfx compress; or a dense one"
    )
    command.add_argument("out", metavar="OUT", help="the folder to write")
    command.add_argument(
        "--to",
        choices=tuple(TARGETS),
        required=True,
        help="; ".join(f"{target.name}: {target.what}" for target in TARGETS.values()),
    )
    command.add_argument(
        "--cache",
        action="store_true",
        help=f"with keys and values as inputs and outputs, to decode step by step ({WITH_CACHE})",
    )
    options.add_dtype(command)
    command.add_argument("--overwrite", action="store_true", help="replace a checkpoint folder")


def run(arguments: argparse.Namespace) -> int:
    """Refuse, load, write, compare, and say where."""
    target = TARGETS[arguments.to]
    if arguments.cache and not target.caches:
        raise options.WrongUse(f"--cache goes with --to {WITH_CACHE}")
    target.check_installed()
    from gacfx.checkpoint.load import load_dense
    from gacfx.cli import plan_files, screen
    from gacfx.exports.exporting import check_out, export

    out = check_out(arguments.out, overwrite=arguments.overwrite)
    plan_files.check_source(arguments.checkpoint, out)
    screen.quiet_transformers()
    model, tokenizer = load_dense(arguments.checkpoint, dtype=options.dtype_of(arguments))
    made = export(
        model,
        out,
        to=target.name,
        tokenizer=tokenizer,
        cache=arguments.cache,
        overwrite=arguments.overwrite,
    )
    for line in _said(target.what, target.loads, made):
        print(line)
    return 0


def _said(what: str, loads: str, made: "Exported") -> list[str]:
    """What a person should know of an export."""
    if made.difference is None:
        compared = "nothing here can run it, so its logits were not compared"
    else:
        compared = f"its logits differ by at most {made.difference:.1g} of the largest"
    return [f"{made.folder}: {what}", f"loaded by {loads}; {compared}", *made.notes]
