"""``gacfx bench``: how fast a checkpoint is on this machine, and whether it beats the dense one."""

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.bench import Bench, Setting


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "bench", "measure the speed of a checkpoint on this machine", run
    )
    command.add_argument("model", metavar="DIR", help="checkpoint folder or name")
    command.add_argument(
        "--against", metavar="DENSE", help="checkpoint to compare with, measured in turn"
    )
    command.add_argument(
        "--batch", type=batches, metavar="N,N", help="sequences, a list (default: 1,8,64)"
    )
    command.add_argument(
        "--seq", type=options.positive, help="tokens each (default: 512, or the model's positions)"
    )
    command.add_argument("--mode", choices=("prefill", "decode", "both"), default="both")
    command.add_argument("--exec", dest="execution", choices=("eager", "compiled"), default="eager")
    command.add_argument("--device", help="cpu or cuda (default: cuda, if there is one)")
    command.add_argument("--dtype", help="fp32, fp16 or bf16 (default: that of DIR)")
    command.add_argument(
        "--runs", type=options.positive, metavar="N", help="rounds of a cell, at most (default: 40)"
    )
    command.add_argument(
        "--seconds",
        type=options.above_0,
        metavar="S",
        help="stop a cell after so long, but not before 6 rounds (default: 5)",
    )
    command.add_argument("--threads", type=options.positive, metavar="N", help="of the CPU")
    command.add_argument("--json", action="store_true", help="everything as JSON")
    command.add_argument("--out", metavar="FILE", help="write that JSON")
    command.add_argument("--overwrite", action="store_true", help="replace an existing FILE")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write and print; 1 if no cell could be measured."""
    from gacfx.bench import bench, read_models
    from gacfx.bench.run import check_threads
    from gacfx.cli import plan_files, screen
    from gacfx.report.bench_view import bench_view

    setting = setting_of(arguments)
    check_threads(arguments.threads)
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        plan_files.check_writable(out, overwrite=arguments.overwrite)
    sources = [arguments.model, *filter(None, [arguments.against])]
    screen.quiet_transformers()
    models = read_models(sources, device=arguments.device, dtype=arguments.dtype)
    with screen.progress(live=False) as move:
        found = bench(
            *models,
            setting=setting,
            names=[name_of(source) for source in sources],
            threads=arguments.threads,
            progress=move,
        )
    found = replace(found, command=shlex.join(["gacfx", *arguments.words]))
    if out is not None:
        write(found, out)
    if arguments.json:
        print(text_of(found), end="")
    else:
        screen.console().print(bench_view(found))
        if out is not None:
            screen.console().print(f"\nwrote {out}")
    return 0 if any(cell.status == "measured" for cell in found.cells) else 1


def setting_of(arguments: argparse.Namespace) -> "Setting":
    """What the options ask to measure."""
    from gacfx.bench import Effort, Setting

    effort = Effort()
    return Setting(
        batches=arguments.batch or Setting().batches,
        seq=arguments.seq,
        modes=Setting().modes if arguments.mode == "both" else (arguments.mode,),
        execution=arguments.execution,
        effort=Effort(arguments.runs or effort.runs, arguments.seconds or effort.seconds),
    )


def batches(text: str) -> tuple[int, ...]:
    """(1, 8) for ``1,8``."""
    return tuple(options.positive(part) for part in text.split(","))


def name_of(source: str) -> str:
    """The folder's own name, wherever it lies; a name of the hub as it is."""
    return Path(source).resolve().name if Path(source).exists() else source


def text_of(found: "Bench") -> str:
    """The bench as JSON text."""
    return json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n"


def write(found: "Bench", out: Path) -> None:
    """The JSON at ``out``, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    from gacfx.core.files.atomic import replacing
    from gacfx.core.files.targets import writing

    with writing(out), replacing(out) as partial:
        partial.write_text(text_of(found), encoding="utf-8")
