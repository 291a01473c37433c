"""``gacfx compress``: a checkpoint in, an aligned checkpoint out."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.cli import jobs, options
from gacfx.errors import CheckpointError, GacError

if TYPE_CHECKING:
    from gacfx.core.plan import Plan
    from gacfx.hardware.profile import Profile
    from gacfx.summary import Summary


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "compress", "write an aligned, compressed checkpoint of a model", run
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
    options.add_work(
        command,
        "folder for statistics, decompositions and curves: a killed run goes on from there, and "
        "other ratios cost seconds (default: OUT.work, removed when all is done)",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with a run that was stopped, or refuse"
    )
    jobs.add(command)
    command.add_argument("--dry-run", action="store_true", help="stop after the plan")
    command.add_argument("--json", action="store_true", help="the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compress, save and print."""
    if arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt)")
    if arguments.dry_run:
        return dry_run(arguments)
    if arguments.out is None:
        raise options.WrongUse("give --out DIR, or --dry-run to stop after the plan")
    return compress(arguments)


def dry_run(arguments: argparse.Namespace) -> int:
    """Plan, refuse what would be refused, and print."""
    from gacfx.cli import made, screen
    from gacfx.core.rise import check_rise, rise_of
    from gacfx.report import tables
    from gacfx.report.speedup_view import speedup_view

    request = options.request_of(arguments)
    found = made.from_model(arguments, tried=True)
    plan = found.planned.plan
    rise = rise_of(plan)
    if rise is not None and not request.force:
        check_rise(rise, request.max_loss)
    screen.say_text(found.text, arguments.json)
    if arguments.json:
        print(plan.to_json(), end="")
        return 0
    out = screen.console()
    out.print(tables.plan_view(plan, request.profile))
    out.print()
    out.print(speedup_view(made.speedup(arguments, found)))
    return 0


def compress(arguments: argparse.Namespace) -> int:
    """Compress, write the folder, and print."""
    from gacfx import api
    from gacfx.calibration.text import usage
    from gacfx.checkpoint.save import check_target
    from gacfx.cli import made, plan_files, screen
    from gacfx.core.paging import lean, pages_of
    from gacfx.core.work_folder import remove_work

    request, folder = options.request_of(arguments), Path(arguments.out).expanduser()
    check_target(folder, overwrite=arguments.overwrite)
    plan_files.check_source(arguments.model, folder)
    work = work_folder(arguments, folder)
    pages = pages_of(arguments.model)
    with (
        resumable(work),
        jobs.working(arguments, work, temporary=not arguments.work) as on,
        lean(pages),
    ):
        model, tokenizer, corpus = made.calibration_text(arguments)
        with screen.progress() as move:
            compressed = api.compress(
                model,
                tokenizer,
                calibration=corpus,
                request=request,
                progress=move,
                work=on,
            )
        folder = api.save(compressed, folder, overwrite=arguments.overwrite)
    try:
        remove_work(work)
    except CheckpointError as error:  # the result is there
        print(f"gacfx compress: {error}; remove it yourself", file=sys.stderr)
    screen.say_text(usage(corpus), arguments.json)
    if arguments.json:
        print(json.dumps(compressed.summary.to_dict(), indent=1))
    else:
        show(compressed.planned.plan, compressed.summary, request.profile)
        print(f"\nwrote {folder}; load it with plain transformers after: import gacfx")
    return 0


def work_folder(arguments: argparse.Namespace, out: Path) -> Path:
    """Where the run keeps what it has.

    Raises:
        CheckpointError: ``--resume``, and there is nothing to go on with; or nothing can be
            written there.
    """
    from gacfx.core.work_folder import JOURNAL, check_work

    named = out if out.name not in ("", "..") else out.resolve()
    beside = named.with_name(f"{named.name}.work")
    work = Path(arguments.work).expanduser() if arguments.work else beside
    if work.resolve().is_relative_to(out.resolve()):
        raise CheckpointError(f"{work}: lies in {out}, which is written as a whole; name another")
    if arguments.resume and not (work / JOURNAL).is_file():
        raise CheckpointError(
            f"{work}: no run was stopped there; leave out --resume to begin one, or name its "
            "folder with --work"
        )
    check_work(work)
    return work


@contextmanager
def resumable(work: Path, way: str = "the same command with --resume") -> Iterator[None]:
    """What ends a run says where its work is, if there is any, and what goes on from there."""
    before = _written(work)
    try:
        yield
    except (GacError, KeyboardInterrupt) as error:
        if _written(work) != before:
            error.add_note(f"{way} goes on from {work}")
        raise


def _written(work: Path) -> int | None:
    """When a work folder was written to last, in nanoseconds; None where there is none."""
    from gacfx.core.work_folder import JOURNAL

    journal = work / JOURNAL
    return journal.stat().st_mtime_ns if journal.is_file() else None


def show(plan: "Plan", summary: "Summary", profile: "Profile") -> None:
    """The plan, the comparison, and how much faster it is."""
    from gacfx.cli import screen
    from gacfx.report import tables
    from gacfx.report.speedup_view import speedup_view

    out = screen.console()
    out.print(tables.plan_view(plan, profile))
    out.print()
    out.print(tables.summary_view(summary))
    for side in summary.sides:
        if side.speedup is not None:
            out.print()
            out.print(speedup_view(side.speedup))
