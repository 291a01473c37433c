"""``gacfx compress``: a checkpoint in, an aligned checkpoint out."""

import argparse
import json
from pathlib import Path
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "compress", "write an aligned low-rank checkpoint of a model", run
    )
    command.add_argument("model", help="checkpoint folder or name")
    options.add_planning(command)
    options.add_gpu(command)
    options.add_workload(command)
    options.add_dtype(command)
    command.add_argument("--out", metavar="DIR", help="folder to write")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.add_argument(
        "--max-loss",
        type=options.above_0,
        metavar="NATS",
        help="most nats/token that the loss may rise on held-back text (default: 1)",
    )
    command.add_argument("--dry-run", action="store_true", help="stop after the plan")
    command.add_argument("--json", action="store_true", help="the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compress, save and print."""
    from gacfx import api
    from gacfx.calibration.text import usage
    from gacfx.checkpoint.save import check_target
    from gacfx.cli import made, plan_files, screen
    from gacfx.core.rise import MAX_LOSS_NATS, check_rise, rise_of
    from gacfx.report import tables
    from gacfx.report.speedup_view import speedup_view

    if arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt)")
    max_loss = MAX_LOSS_NATS if arguments.max_loss is None else arguments.max_loss
    if arguments.dry_run:
        found = made.from_model(arguments, tried=True)
        rise = rise_of(found.planned.plan)
        if rise is not None and not arguments.force:
            check_rise(rise, max_loss)
        screen.say_text(found.text, arguments.json)
        if arguments.json:
            print(found.planned.plan.to_json(), end="")
            return 0
        out = screen.console()
        out.print(tables.plan_view(found.planned.plan, options.profile_of(arguments)))
        out.print()
        out.print(speedup_view(made.speedup(arguments, found)))
        return 0
    if arguments.out is None:
        raise options.WrongUse("give --out DIR, or --dry-run to stop after the plan")
    goal, search = options.goal_of(arguments), options.search_of(arguments)
    profile = options.profile_of(arguments)
    out_folder = Path(arguments.out).expanduser()
    check_target(out_folder, overwrite=arguments.overwrite)
    plan_files.check_source(arguments.model, out_folder)
    model, tokenizer, corpus = made.calibration_text(arguments)
    with screen.progress() as move:
        compressed = api.compress(
            model,
            tokenizer,
            calibration=corpus,
            **options.calibration_of(arguments),
            goal=goal,
            gpu=profile,
            search=search,
            workload=options.workload_of(arguments),
            progress=move,
            max_loss=max_loss,
        )
    folder = api.save(compressed, arguments.out, overwrite=arguments.overwrite)
    screen.say_text(usage(corpus), arguments.json)
    if arguments.json:
        print(json.dumps(compressed.summary.to_dict(), indent=1))
        return 0
    out = screen.console()
    out.print(tables.plan_view(compressed.planned.plan, profile))
    out.print()
    out.print(tables.summary_view(compressed.summary))
    for side in compressed.summary.sides:
        if side.speedup is not None:
            out.print()
            out.print(speedup_view(side.speedup))
    out.print(f"\nwrote {folder}; load it with plain transformers after: import gacfx")
    return 0
