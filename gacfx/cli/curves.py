"""Options of ``gacfx plan`` that keep curves, plan from kept ones, and sweep all budgets."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gacfx.cli import options, plan_files

if TYPE_CHECKING:
    from gacfx.cli.made import Made

POINTS = 41
"""Budgets of a sweep: few enough to solve each one."""
MOST_POINTS = 10_000
"""No plot and no table shows more; each is solved."""


def add_options(command: argparse.ArgumentParser) -> None:
    """``--save-curves``, ``--curves``, ``--sweep`` and ``--points``."""
    group = command.add_argument_group("curves")
    group.add_argument(
        "--save-curves", metavar="FILE", help="write what every rank costs (.safetensors)"
    )
    group.add_argument(
        "--curves", metavar="FILE", help="plan from saved curves, without model and text"
    )
    group.add_argument(
        "--sweep", metavar="FILE", help="plan for every budget: FILE.csv, and FILE.svg beside it"
    )
    group.add_argument(
        "--points", type=options.positive, metavar="N", help=f"budgets (default: {POINTS})"
    )


def check(arguments: argparse.Namespace) -> None:
    """Refuse before any work what cannot be written, and a sweep that cannot be.

    Raises:
        WrongUse: options that do not go together.
        CheckpointError: a file that cannot be written.
    """
    if arguments.points is not None and not arguments.sweep:
        raise options.WrongUse("--points goes with --sweep FILE.csv")
    if arguments.sweep:
        if Path(arguments.sweep).suffix != ".csv":
            raise options.WrongUse(f"--sweep {arguments.sweep}: name a file that ends in .csv")
        if arguments.points == 1:
            raise options.WrongUse("--points 1: a sweep has at least 2 budgets, its two ends")
        if (arguments.points or 0) > MOST_POINTS:
            raise options.WrongUse(f"--points {arguments.points}: at most {MOST_POINTS} budgets")
        search = options.search_of(arguments)
        if (search.solver, search.candidates) != ("core", "full"):
            raise options.WrongUse(
                "--sweep is solved by core over all ranks; leave out --solver, --candidates, "
                "--window and --paper"
            )
        for file in (Path(arguments.sweep), Path(arguments.sweep).with_suffix(".svg")):
            plan_files.check_writable(file, overwrite=arguments.overwrite)
    if arguments.save_curves:
        plan_files.check_writable(Path(arguments.save_curves), overwrite=arguments.overwrite)


def save(arguments: argparse.Namespace, made: "Made") -> list[str]:
    """Write the curves if asked to; says what was written."""
    if not arguments.save_curves:
        return []
    from gacfx.core.curve_file import save_curves

    save_curves(arguments.save_curves, made.curves(), overwrite=arguments.overwrite)
    return [f"wrote {arguments.save_curves}"]


def sweep(arguments: argparse.Namespace, made: "Made") -> list[str]:
    """Write table and plot of a sweep if asked to; says what was written, or why no plot was."""
    if not arguments.sweep:
        return []
    from gacfx import sweep as door
    from gacfx.report.frontier_plot import Mark, can_draw, frontier_plot

    workload, profile = options.workload_of(arguments), options.profile_of(arguments)
    curves = made.curves()
    rows = door.sweep(
        curves,
        arguments.points or POINTS,
        gpu=profile,
        search=options.search_of(arguments),
        workload=workload,
    )
    path = door.write_csv(rows, arguments.sweep, overwrite=arguments.overwrite)
    said = [f"wrote {path}: {len(rows)} budget{'s' * (len(rows) > 1)}"]
    plan = made.planned.plan
    goal = options.goal_of(arguments)
    if plan.budget.amount != goal.amount:
        found = f"no plan reaches the default ratio {goal.amount}; the plan shown is for ratio 0"
        said.insert(0, found)
    if len(rows) < 2:
        return [*said, "no plot: only one budget has a plan of its own"]
    if not can_draw():
        return [*said, "no plot: it needs matplotlib: pip install matplotlib"]
    run = f"{workload.mode}, {workload.batch} x {workload.seq} tokens, {profile.name}"
    time = door.forecast_us(curves, plan, gpu=profile, workload=workload)
    drawn = frontier_plot(
        rows,
        path.with_suffix(".svg"),
        workload=run,
        forecast=profile.forecast,
        marked=Mark(plan.kept_params, plan.loss_nats, time),
        overwrite=arguments.overwrite,
    )
    return [*said, f"wrote {drawn}"]
