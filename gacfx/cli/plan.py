"""``gacfx plan``: the best aligned plan, without changing anything."""

import argparse
import sys
from pathlib import Path
from typing import Any

from gacfx.cli import curves, jobs, options, plan_files


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "plan", "find the best aligned plan under a parameter budget", run
    )
    command.add_argument(
        "model", nargs="?", help="checkpoint folder or name; a config with --synthetic"
    )
    options.add_planning(command)
    options.add_gpu(command)
    options.add_workload(command)
    options.add_dtype(command)
    options.add_work(
        command,
        "folder for statistics, decompositions and curves: what is there is not computed again; "
        "without a model, plan from the curves of the last plan there",
    )
    jobs.add(command)
    curves.add_options(command)
    command.add_argument(
        "--synthetic",
        metavar="DECAY",
        type=options.number,
        help="made-up power-law spectra instead of weights: says nothing about quality",
    )
    command.add_argument(
        "--json", action="store_true", help="plan.json on the standard output, no tables"
    )
    command.add_argument("--out", metavar="DIR", help="write plan.json and factors.safetensors")
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(arguments: argparse.Namespace) -> int:
    """Plan, write what was asked for, and print."""
    from gacfx.cli import made, screen
    from gacfx.report import tables
    from gacfx.report.speedup_view import speedup_view

    alone = arguments.model is None and not arguments.curves and arguments.synthetic is None
    if arguments.work and alone:
        arguments.curves, arguments.work = made.curves_in(arguments.work), None
    curves.check(arguments)
    made.check(arguments)
    if arguments.out:
        plan_files.check_plan_folder(Path(arguments.out), overwrite=arguments.overwrite)
        plan_files.check_source(arguments.model, Path(arguments.out))
    found = made.make(arguments)
    if arguments.out:  # first: the curves may go into the same folder
        found.planned.save(Path(arguments.out), overwrite=arguments.overwrite)
    wrote = curves.save(arguments, found)
    screen.say_text(found.text, arguments.json)
    if arguments.json:
        print(found.planned.plan.to_json(), end="")
    else:
        out = screen.console()
        out.print(tables.plan_view(found.planned.plan, options.profile_of(arguments)))
        out.print()
        out.print(speedup_view(made.speedup(arguments, found)))
    wrote += curves.sweep(arguments, found)
    for line in wrote:
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    return 0
