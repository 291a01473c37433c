"""``gacfx export``: a pruned checkpoint as a folder that needs no gacfx."""

import argparse
from pathlib import Path
from typing import Any

from gacfx.cli import options

FORMATS = {
    "plain": "an ordinary checkpoint of a smaller model, where all layers are alike",
    "per-layer-config": "numbers for each layer, as DeciLM and Nemotron-NAS have them; Llama only",
}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "export", "write a pruned checkpoint as a folder that needs no gacfx", run
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="written by gacfx compress")
    command.add_argument("out", metavar="OUT", help="the folder to write")
    command.add_argument(
        "--to",
        choices=tuple(FORMATS),
        required=True,
        help="; ".join(f"{name}: {what}" for name, what in FORMATS.items()),
    )
    command.add_argument("--overwrite", action="store_true", help="replace a checkpoint folder")


def run(arguments: argparse.Namespace) -> int:
    """Load, write, and say where."""
    from gacfx.checkpoint.load import load_dense
    from gacfx.checkpoint.per_layer_config import save_per_layer_config
    from gacfx.checkpoint.plain_folder import save_plain
    from gacfx.core.files.targets import check_folder

    overwrite, out = arguments.overwrite, Path(arguments.out).expanduser()
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")
    model, tokenizer = load_dense(arguments.checkpoint)
    save = save_plain if arguments.to == "plain" else save_per_layer_config
    made = save(model, out, tokenizer=tokenizer, overwrite=overwrite)
    print(f"{made}: {FORMATS[arguments.to]}")
    return 0
