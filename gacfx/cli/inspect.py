"""``gacfx inspect``: the annotated graph of a model, from its configuration alone."""

import argparse
import gc
import json
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "inspect", "show sizes, predicted kernel tiers and latency of every site", run
    )
    command.add_argument("model", help="checkpoint folder, config.json, or name")
    options.add_gpu(command)
    options.add_workload(command)
    options.add_dtype(command)
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="everything as JSON")
    shown.add_argument("--dims", action="store_true", help="coupled dimensions instead of sites")
    shown.add_argument("--groups", action="store_true", help="weights that are pruned together")
    shown.add_argument("--code", action="store_true", help="the graph as text with its notes")
    command.add_argument("--dot", action="store_true", help="with --dims: Graphviz DOT")


def run(arguments: argparse.Namespace) -> int:
    """Inspect and print."""
    gc.disable()  # a short process: collecting costs a second and frees next to nothing
    from gacfx.cli import screen
    from gacfx.core.dims import to_dot
    from gacfx.inspection import inspect
    from gacfx.report import tables

    if arguments.dot and not arguments.dims:
        raise options.WrongUse("--dot goes with --dims")
    screen.quiet_transformers()
    seen = inspect(
        arguments.model,
        gpu=options.profile_of(arguments),
        dims=arguments.dims or arguments.groups,
        dtype=arguments.dtype,
        batch=arguments.batch,
        seq=arguments.seq,
        mode=arguments.mode,
        execution=arguments.execution,
    )
    if arguments.json:
        print(json.dumps(seen.to_dict(), indent=1))
    elif arguments.dot:
        print(to_dot(seen.dims), end="")
    elif arguments.code:
        print(seen.code(), end="")
    elif arguments.groups:
        view = tables.groups_view(seen.model, seen.params, seen.structures)
        screen.console().print(view)
    else:
        view = tables.dims_view(seen.dims) if arguments.dims else tables.inspection_view(seen)
        screen.console().print(view)
    return 0
