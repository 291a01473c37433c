"""``gacfx eval DIR --tasks piqa,arc_easy``: zero-shot scores of a checkpoint, through lm-eval."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from gacfx.cli import options

if TYPE_CHECKING:
    import torch

    from gacfx.zeroshot import Scores, TaskData


def add(command: argparse.ArgumentParser) -> None:
    """The options that go with ``--tasks``."""
    group = command.add_argument_group("with --tasks")
    group.add_argument(
        "--task-data",
        metavar="FOLDER",
        help="NAME.jsonl of each task: query, choices, gold (default: what lm-eval downloads)",
    )
    group.add_argument(
        "--limit", metavar="N", type=options.positive, help="score the first N items of each task"
    )
    group.add_argument(
        "--against",
        metavar="DENSE",
        help="checkpoint to compare with, item by item; with --compare also token by token",
    )
    group.add_argument(
        "--batch", metavar="N", type=options.positive, help="answers read at once (default: 8)"
    )
    group.add_argument("--device", help="cpu or cuda (default: cuda, if there is one)")


def names(text: str) -> list[str]:
    """``piqa`` and ``arc_easy`` for ``piqa,arc_easy``."""
    return [name.strip() for name in text.split(",")]


def check_unused(arguments: argparse.Namespace) -> None:
    """Nothing when no option of ``--tasks`` is given; a comparison of losses takes two of them.

    Raises:
        WrongUse: names those that are.
    """
    given = vars(arguments)
    alone = arguments.compare is None
    ours = ("task_data", "limit", *(["against"] if alone else []), "batch")
    ours += ("device",) if alone else ()
    if said := [f"--{name.replace('_', '-')}" for name in ours if given[name] is not None]:
        raise options.WrongUse(f"{', '.join(said)}: goes with --tasks")


def run(arguments: argparse.Namespace) -> int:
    """Score and print; what cannot be scored is refused before any model is read."""
    from gacfx.bench.sides import device_named
    from gacfx.cli import screen
    from gacfx.report.zeroshot_view import zeroshot_view
    from gacfx.zeroshot import ZeroShot, read_tasks
    from gacfx.zeroshot.harness import check_installed, harness_name

    tasks = read_tasks(arguments.tasks, arguments.task_data)
    device = device_named(arguments.device)
    check_installed()
    screen.quiet_transformers()
    sources = filter(None, [arguments.model, arguments.against])
    sides = [(source, *read(source)) for source in sources]
    model, *dense = (scored(*side, tasks, device, arguments) for side in sides)
    found = ZeroShot(
        model, dense[0] if dense else None, data=arguments.task_data, harness=harness_name()
    )
    if arguments.json:
        print(json.dumps(found.to_dict(), allow_nan=False))
    else:
        screen.console().print(zeroshot_view(found))
    return 0


def read(source: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint that has both.

    Raises:
        CheckpointError: no such checkpoint, or a folder without a tokenizer.
    """
    from gacfx import api
    from gacfx.errors import CheckpointError

    model, tokenizer = api.load(source)
    if tokenizer is None:
        raise CheckpointError(f"{source}: has no tokenizer, and tasks are text; copy its files")
    return model, tokenizer


def scored(
    source: str,
    model: Any,
    tokenizer: Any,
    tasks: "tuple[TaskData, ...]",
    device: "torch.device",
    arguments: argparse.Namespace,
) -> "Scores":
    """The scores of one model, on the device meanwhile."""
    from gacfx.cli import screen
    from gacfx.cli.bench import name_of
    from gacfx.zeroshot import score
    from gacfx.zeroshot.harness import BATCH

    with screen.progress() as move:
        found = score(
            model,
            tokenizer,
            tasks,
            limit=arguments.limit,
            batch=arguments.batch or BATCH,
            device=device,
            name=name_of(source),
            progress=move,
        )
    model.to("cpu")  # the next one may need the room
    return found
