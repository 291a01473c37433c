"""Options of ``gacfx plan`` that keep curves, plan from kept ones, and sweep all budgets."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.core.curve_file import Curves
    from gacfx.core.planned import Planned

POINTS = 41
"""Budgets of a sweep: few enough to solve each one."""


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


def run_if_asked(arguments: argparse.Namespace) -> int | None:
    """The exit code if one of the options is there; None if the command shall go its usual way.

    Raises:
        WrongUse: options that do not go together, or neither a model nor curves.
        GacError: as the parts say.
    """
    _check(arguments)
    if not (arguments.save_curves or arguments.curves or arguments.sweep):
        return None
    planned, curves = _from_file(arguments) if arguments.curves else _from_model(arguments)
    wrote = []
    if arguments.save_curves:
        from gacfx.core.curve_file import save_curves

        save_curves(arguments.save_curves, curves)
        wrote.append(f"wrote {arguments.save_curves}")
    if arguments.out:
        planned.save(Path(arguments.out))
    _print(arguments, planned)
    if arguments.sweep:
        wrote += _sweep(arguments, planned, curves)
    for line in wrote:
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse before any work what cannot be done."""
    if arguments.model is None and not arguments.curves:
        raise options.WrongUse("name a model, or give --curves FILE to plan without one")
    if arguments.points is not None and not arguments.sweep:
        raise options.WrongUse("--points goes with --sweep FILE.csv")
    if arguments.sweep:
        if Path(arguments.sweep).suffix != ".csv":
            raise options.WrongUse(f"--sweep {arguments.sweep}: name a file that ends in .csv")
        if arguments.points == 1:
            raise options.WrongUse("--points 1: a sweep has at least 2 budgets, its two ends")
        search = options.search_of(arguments)
        if (search.solver, search.candidates) != ("core", "full"):
            raise options.WrongUse(
                "--sweep is solved by core over all ranks; leave out --solver, --candidates, "
                "--window and --paper"
            )
    if arguments.curves:
        needless = {
            "the model": arguments.model,
            "--calibration": arguments.calibration,
            "--synthetic": arguments.synthetic is not None,
            "--skip": arguments.skip,
            "--save-curves": arguments.save_curves,
        }
        if said := [name for name, given in needless.items() if given]:
            raise options.WrongUse(f"--curves plans without the model; leave out {', '.join(said)}")
        if arguments.out:
            raise options.WrongUse("--curves has no factors to write to --out; see --json")
    elif arguments.synthetic is None and arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt), or --synthetic DECAY")
    elif arguments.synthetic is not None and (arguments.out or arguments.calibration):
        raise options.WrongUse("--synthetic has no factors to write and reads no text; see --json")


def _from_file(arguments: argparse.Namespace) -> "tuple[Planned, Curves]":
    from gacfx.core.curve_file import load_curves

    curves = load_curves(arguments.curves)
    return _replanned(arguments, curves), curves


def _replanned(arguments: argparse.Namespace, curves: "Curves") -> "Planned":
    from gacfx.core.planned import Planned
    from gacfx.replan import plan_from_curves

    plan = plan_from_curves(
        curves,
        goal=options.goal_of(arguments),
        gpu=options.profile_of(arguments),
        search=options.search_of(arguments),
    )
    return Planned(plan, {})


def _from_model(arguments: argparse.Namespace) -> "tuple[Planned, Curves]":
    """The plan that the command makes anyway, and the curves that it was made of."""
    from gacfx import api, replan
    from gacfx.cli import screen
    from gacfx.study import Study

    goal, search = options.goal_of(arguments), options.search_of(arguments)
    profile, skip = options.profile_of(arguments), tuple(arguments.skip)
    if arguments.synthetic is not None:
        if search.value not in ("auto", "paper"):
            raise options.WrongUse("--synthetic has no losses to measure; --value is auto or paper")
        curves = replan.synthetic_curves(
            arguments.model,
            skip=skip,
            decay=arguments.synthetic,
            seed=arguments.seed,
            value="paper" if search.value == "paper" else "",
        )
        return _replanned(arguments, curves), curves
    api.check_request(arguments.method, goal, search.value, search.limits)
    screen.quiet_transformers()
    model, tokenizer = api.load(arguments.model)
    corpus = api.read_calibration(arguments.calibration, model, tokenizer)
    with screen.progress() as move:
        study = Study.make(
            model,
            corpus,
            method=arguments.method,
            skip=skip,
            seed=arguments.seed,
            progress=move,
        )
        planned = study.plan(goal, profile=profile, search=search)
    return planned, replan.curves_of(study.graph, planned.plan)


def _print(arguments: argparse.Namespace, planned: "Planned") -> None:
    from gacfx.cli import screen
    from gacfx.report import tables

    if arguments.json:
        print(planned.plan.to_json(), end="")
    else:
        screen.console().print(tables.plan_view(planned.plan))


def _sweep(arguments: argparse.Namespace, planned: "Planned", curves: "Curves") -> list[str]:
    """Write the table and, where matplotlib is, the plot; says what was written."""
    from gacfx.report.frontier_plot import can_draw, frontier_plot
    from gacfx.sweep import sweep, write_csv

    workload, profile = options.workload_of(arguments), options.profile_of(arguments)
    rows = sweep(
        curves,
        arguments.points or POINTS,
        gpu=profile,
        search=options.search_of(arguments),
        workload=workload,
    )
    path = write_csv(rows, arguments.sweep)
    said = [f"wrote {path}: {len(rows)} budgets"]
    if not can_draw():
        return [*said, "no plot: it needs matplotlib: pip install matplotlib"]
    run = f"{workload.mode}, {workload.batch} x {workload.seq} tokens, {profile.name}"
    plan = planned.plan
    drawn = frontier_plot(
        rows,
        path.with_suffix(".svg"),
        workload=run,
        marked=(plan.kept_params, plan.loss_nats),
    )
    return [*said, f"wrote {drawn}"]
