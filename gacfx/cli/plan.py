"""``gacfx plan``: the best aligned plan, without changing anything."""

import argparse
from pathlib import Path
from typing import Any

from gacfx.cli import curves, options


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
    curves.add_options(command)
    command.add_argument(
        "--synthetic",
        metavar="DECAY",
        type=float,
        help="made-up power-law spectra instead of weights: says nothing about quality",
    )
    command.add_argument("--json", action="store_true", help="plan.json on the standard output")
    command.add_argument("--out", metavar="DIR", help="write plan.json and factors.safetensors")


def run(arguments: argparse.Namespace) -> int:
    """Plan and print."""
    from gacfx.cli import screen
    from gacfx.core.planned import Planned
    from gacfx.report import tables

    if (code := curves.run_if_asked(arguments)) is not None:
        return code
    if arguments.synthetic is None and arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt), or --synthetic DECAY")
    if arguments.synthetic is not None and (arguments.out or arguments.calibration):
        raise options.WrongUse("--synthetic has no factors to write and reads no text; see --json")
    if arguments.synthetic is not None:
        planned = Planned(synthetic_plan(arguments), {})
    else:
        planned = real_plan(arguments)
    if arguments.out:
        planned.save(Path(arguments.out))
    if arguments.json:
        print(planned.plan.to_json(), end="")
    else:
        screen.console().print(tables.plan_view(planned.plan))
    return 0


def real_plan(arguments: argparse.Namespace) -> Any:
    """A plan from weights and calibration text."""
    from gacfx import api
    from gacfx.cli import screen

    asked = planning(arguments)
    screen.quiet_transformers()
    model, tokenizer = api.load(arguments.model)
    with screen.progress() as move:
        return api.plan(model, tokenizer, progress=move, **asked)


def planning(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``gacfx.plan`` from the options."""
    return {
        "calibration": arguments.calibration,
        "method": arguments.method,
        "goal": options.goal_of(arguments),
        "gpu": options.profile_of(arguments),
        "search": options.search_of(arguments),
        "skip": tuple(arguments.skip),
        "seed": arguments.seed,
    }


def synthetic_plan(arguments: argparse.Namespace) -> Any:
    """A plan for a configuration alone, with stated made-up curves."""
    from gacfx import api

    search = options.search_of(arguments)
    if search.value not in ("auto", "paper"):
        raise options.WrongUse("--synthetic has no losses to measure; --value is auto or paper")
    return api.plan_synthetic(
        arguments.model,
        goal=options.goal_of(arguments),
        gpu=options.profile_of(arguments),
        search=search,
        skip=tuple(arguments.skip),
        decay=arguments.synthetic,
        seed=arguments.seed,
    )
