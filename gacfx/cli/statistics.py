"""``gacfx statistics``: calibrate a model into a work folder, for plans that follow."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.calibration.text import Corpus
    from gacfx.work import Work


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "statistics", "calibrate a model into a work folder, for plans that follow", run
    )
    command.add_argument("model", help="checkpoint folder or name")
    options.add_calibration(command)
    options.add_dtype(command)
    command.add_argument(
        "--prune", action="store_true", help="also what sizes of MLPs and attentions need"
    )
    command.add_argument(
        "--work", metavar="DIR", required=True, help="folder to fill or to fill up"
    )
    options.add_disk(command)
    parts = command.add_mutually_exclusive_group()
    parts.add_argument(
        "--shard", metavar="I/N", help="gather part I of N of the text alone, on any machine"
    )
    parts.add_argument(
        "--merge", metavar="DIR", nargs="+", help="add the folders of all shards; gathers nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, and say what is there."""
    from gacfx.calibration.shards import Shard
    from gacfx.calibration.text import usage
    from gacfx.cli import made
    from gacfx.cli.compress import resumable
    from gacfx.core.paging import lean, pages_of
    from gacfx.core.work_folder import check_work
    from gacfx.work import Work

    if arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt)")
    given = {
        "--prune": arguments.prune,
        "--disk": arguments.disk is not None,
        "--device": arguments.device is not None,
    }
    if arguments.merge and (needless := [name for name, said in given.items() if said]):
        raise options.WrongUse(
            f"--merge has what the shards have; leave out {' and '.join(needless)}"
        )
    if arguments.shard:
        Shard.parse(arguments.shard)  # before the model is read
    work = Path(arguments.work).expanduser()
    check_work(work)
    on = Work(work, disk=arguments.disk, device=arguments.device)
    with resumable(work, "the same command"), lean(pages_of(arguments.model)):
        model, tokenizer, corpus = made.calibration_text(arguments)
        fill = merge if arguments.merge else shard if arguments.shard else whole
        weights = fill(arguments, on, model, tokenizer, corpus)
    size = sum(path.stat().st_size for path in work.iterdir())
    print(usage(corpus))
    what = f"shard {arguments.shard} of the statistics" if arguments.shard else "statistics"
    print(f"{work}: {what} of {weights} weights, {size / 2**20:,.1f} MiB")
    line = f"gacfx {{}} {arguments.model} --calibration FILE --work {{}}"
    if arguments.shard:
        print("merge with:", line.format("statistics", "DIR --merge SHARD_1 ... SHARD_N"))
    else:
        print("plan with:", line.format("plan", arguments.work))
    return 0


def whole(
    arguments: argparse.Namespace, work: "Work", model: Any, tokenizer: Any, corpus: "Corpus"
) -> int:
    """Statistics of the whole text; of how many weights."""
    from gacfx import api
    from gacfx.cli import screen

    with screen.progress() as move:
        study = api.calibrate(
            model,
            tokenizer,
            calibration=corpus,
            skip=tuple(arguments.skip),
            seed=arguments.seed or 0,
            structures=arguments.prune,
            progress=move,
            force=arguments.force,
            work=work,
        )
    return len(study.full.statistics.moments)


def shard(
    arguments: argparse.Namespace, work: "Work", model: Any, tokenizer: Any, corpus: "Corpus"
) -> int:
    """Statistics of one shard; of how many weights."""
    from gacfx import shards
    from gacfx.cli import screen

    with screen.progress() as move:
        return shards.gather_shard(
            model,
            tokenizer,
            calibration=corpus,
            shard=arguments.shard,
            work=work,
            skip=tuple(arguments.skip),
            seed=arguments.seed or 0,
            structures=arguments.prune,
            progress=move,
            force=arguments.force,
        )


def merge(
    arguments: argparse.Namespace, work: "Work", model: Any, tokenizer: Any, corpus: "Corpus"
) -> int:
    """Statistics of all shards together; of how many weights."""
    from gacfx import shards

    return shards.merge_shards(
        model,
        tokenizer,
        calibration=corpus,
        shards=[Path(path).expanduser() for path in arguments.merge],
        work=Path(arguments.work).expanduser(),
        skip=tuple(arguments.skip),
        seed=arguments.seed or 0,
    )
