"""``gacfx plan``: the best aligned plan, without changing anything."""

import argparse
from pathlib import Path
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "plan", "find the best aligned plan under a parameter budget", run
    )
    command.add_argument("model", help="checkpoint folder or name; a config with --synthetic")
    options.add_planning(command)
    options.add_gpu(command)
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

    screen.quiet_transformers()
    model, tokenizer = api.load(arguments.model)
    with screen.progress() as move:
        return api.plan(model, tokenizer, progress=move, **planning(arguments))


def planning(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``gacfx.plan`` from the options."""
    return {
        "calibration": arguments.calibration,
        "method": arguments.method,
        "ratio": arguments.ratio,
        "ratio_of": arguments.ratio_of,
        "gpu": options.profile_of(arguments),
        "align": arguments.align,
        "value": arguments.value,
        "skip": tuple(arguments.skip),
        "seed": arguments.seed,
    }


def synthetic_plan(arguments: argparse.Namespace) -> Any:
    """A plan for a configuration alone, with stated made-up curves."""
    from gacfx import api

    return api.plan_synthetic(
        arguments.model,
        ratio=arguments.ratio,
        ratio_of=arguments.ratio_of,
        gpu=options.profile_of(arguments),
        align=arguments.align,
        skip=tuple(arguments.skip),
        decay=arguments.synthetic,
        seed=arguments.seed,
    )
