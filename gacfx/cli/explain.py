"""``gacfx explain``: why a weight got its size, from a plan and its curves, without the model."""

import argparse
import json
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "explain", "say why a weight or structure got its size, and what holds it", run
    )
    command.add_argument("plan", metavar="PLAN", help="plan folder, checkpoint or plan.json")
    command.add_argument(
        "module", metavar="MODULE", help="model.layers.0.mlp.up_proj, or the structure: ...0.mlp"
    )
    command.add_argument(
        "--curves", metavar="FILE", required=True, help="of gacfx plan --save-curves"
    )
    options.add_gpu(command, default=None)
    command.add_argument("--json", action="store_true", help="the explanation as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Explain and print."""
    from gacfx.cli import screen
    from gacfx.cli.plan_files import read_plan
    from gacfx.core.curve_file import load_curves
    from gacfx.core.plain import plain
    from gacfx.explain import explain
    from gacfx.report.explain_view import explain_view

    plan = read_plan(arguments.plan)
    gpu = None
    if arguments.gpu or arguments.torch or arguments.cudnn:
        arguments.gpu = arguments.gpu or plan.provenance.gpu
        gpu = options.profile_of(arguments)
    seen = explain(plan, load_curves(arguments.curves), arguments.module, gpu=gpu)
    if arguments.json:
        print(json.dumps(plain(seen), indent=1))
    else:
        screen.console().print(explain_view(seen))
    return 0
