"""``gacfx diff``: what two plans for one model do differently."""

import argparse
import json
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "diff", "compare two plans for one model, weight by weight", run
    )
    names = "plan folder, checkpoint or plan.json"
    command.add_argument("before", metavar="A", help=names)
    command.add_argument("after", metavar="B", help=names)
    command.add_argument("--json", action="store_true", help="the differences as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; plans that differ are no failure, so the exit code is 0 for them too."""
    from gacfx.cli import screen
    from gacfx.cli.plan_files import read_plan
    from gacfx.report import plan_diff

    found = plan_diff.diff(read_plan(arguments.before), read_plan(arguments.after))
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        screen.console().print(plan_diff.diff_view(found))
    return 0
