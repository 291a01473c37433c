"""``gacfx pad``: sizes that kernels dislike grow to ones that they like, without any loss."""

import argparse
import json
from pathlib import Path
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "pad", "pad MLP widths and head dims of a checkpoint, without any loss", run
    )
    command.add_argument("model", help="checkpoint folder or name, of any pruning tool")
    command.add_argument("out", metavar="OUT", help="the folder to write")
    options.add_gpu(command)
    options.add_workload(command)
    command.add_argument(
        "--align", type=options.positive, metavar="N", help="pad to multiples of N"
    )
    command.add_argument(
        "--widths-only", action="store_true", help="pad no heads: the folder needs no gacfx then"
    )
    command.add_argument("--overwrite", action="store_true", help="replace a checkpoint folder")
    command.add_argument("--json", action="store_true", help="what was padded as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Load, pad, write and print."""
    from gacfx.checkpoint.load import load_dense
    from gacfx.checkpoint.save import check_target
    from gacfx.cli import plan_files, screen
    from gacfx.padding import pad_, save_padded
    from gacfx.report.padding_view import padding_view

    out = Path(arguments.out).expanduser()
    check_target(out, overwrite=arguments.overwrite)
    plan_files.check_source(arguments.model, out)
    screen.quiet_transformers()
    model, tokenizer = load_dense(arguments.model)
    padding = pad_(
        model,
        gpu=options.profile_of(arguments),
        align=arguments.align,
        heads=not arguments.widths_only,
        batch=arguments.batch,
        seq=arguments.seq,
        mode=arguments.mode,
        execution=arguments.execution,
    )
    if padding.changes:
        save_padded(model, out, tokenizer=tokenizer, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps(padding.to_dict(), indent=1))
        return int(padding.stuck)
    screen.console().print(padding_view(padding))
    if padding.changes:
        needs = "load it with plain transformers after: import gacfx"
        print(f"\nwrote {out}; {needs if padding.needs_gacfx else 'it needs no gacfx'}")
    else:
        print("\nnothing was written")
    return int(padding.stuck)
