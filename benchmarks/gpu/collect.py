"""Measure what a GPU does with the shapes that gacfx reasons about.

    python benchmarks/gpu/collect.py --out DIR [--budget-minutes 9] [--only PART] [--resume]

Needs torch, transformers and numpy; no installation, network or weights. Results stream to
DIR/records.jsonl; the README beside this file says what they mean.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

if not __package__:  # run as a file: the checkout takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks import record
from benchmarks.gpu.parts.decompose import Decompose
from benchmarks.gpu.parts.end_to_end import EndToEnd
from benchmarks.gpu.parts.figures import Figures
from benchmarks.gpu.parts.routing import Routing
from benchmarks.gpu.tables import table
from gacfx.hardware.measure import machine
from gacfx.hardware.measure.journal import Journal
from gacfx.hardware.measure.part import Rates, Setting
from gacfx.hardware.measure.parts.ceilings import Ceilings
from gacfx.hardware.measure.parts.dispatch import Dispatch, read_extra
from gacfx.hardware.measure.run import Run, Tally, check_same_machine
from gacfx.hardware.measure.timing import make_timer

PARTS = (Ceilings, EndToEnd, Routing, Dispatch, Figures, Decompose)
"""The ceilings come first, because all floors need them. The models come before ``dispatch``: its
profiler stays in the process (CUPTI is not torn down) and slows every later launch of the host."""
SHARE = {"end-to-end": 0.42, "routing": 0.5, "dispatch": 0.75, "figures": 0.95}
"""Part -> share of the whole time after which the next part has its turn."""
SHOWN_ERRORS = 5
"""Different errors of a part that are printed."""


def collect(options: argparse.Namespace) -> int:
    """Run the parts; 0 unless the device broke."""
    timer = make_timer(dry=options.dry)
    setting = Setting(timer, Rates(), options.dry, options.seed, options.extra)
    torch.manual_seed(options.seed)
    with Journal(options.out, resume=options.resume) as journal, torch.no_grad():
        write_stamp(journal, options)
        run = Run(journal, setting)
        tallies = run_parts(run, setting, options, journal.done())
        counts = {name: tally.counts for name, tally in tallies.items()}
        journal.write("end", took_s=round(run.elapsed(), 1), parts=counts)
    print_end(tallies, journal.path, run)
    return 1 if run.broken else 0


def write_stamp(journal: Journal, options: argparse.Namespace) -> None:
    """Who measures, on what.

    Raises:
        ValueError: the journal's records are of another device, or of a rehearsal.
    """
    stamp = machine.describe()
    check_same_machine(journal, stamp, dry=options.dry)
    head, dirty = record.commit()
    journal.write(
        "run",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=head,
        dirty=dirty,
        dry=options.dry,
        seed=options.seed,
        command=" ".join(["collect.py", *sys.argv[1:]]),
        machine=stamp,
    )


def run_parts(
    run: Run, setting: Setting, options: argparse.Namespace, done: set[str]
) -> dict[str, Tally]:
    """The parts that are asked for, each within its share of the time."""
    skip = {item for item in done if not item.startswith(f"{Ceilings.name} ")}
    budget_s = options.budget_minutes * 60
    tallies: dict[str, Tally] = {}
    for make in PARTS:
        if make.name not in (Ceilings.name, *(options.only or (make.name,))):
            continue
        share = 1.0 if options.only else SHARE.get(make.name, 1.0)
        tallies[make.name] = run.part(make(setting), share * budget_s, skip)
        print_part(make.name, tallies[make.name])
    return tallies


def print_part(name: str, tally: Tally) -> None:
    """The part's lines, as soon as it is over."""
    print(f"\n{name}  {tally.done} measured, {tally.failed} failed, {tally.left} left", flush=True)
    for line in tally.lines:
        print(f"  {line}", flush=True)
    for error, count in tally.errors.most_common(SHOWN_ERRORS):
        print(f"  {count} x {error}", flush=True)


def print_end(tallies: dict[str, Tally], path: Path, run: Run) -> None:
    """The table at the end."""
    rows = [
        (name, *map(str, (tally.done, tally.failed, tally.left, tally.took_s)))
        for name, tally in tallies.items()
    ]
    header = ("part", ">measured", ">failed", ">left", ">seconds")
    print(f"\n{table(header, rows).markdown()}", end="")
    print(f"{run.elapsed():.0f} s  {path}")
    if run.broken:
        print("the device reported an error that spoils what follows it: run again with --resume")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; wrong use ends with status 2 and a message."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="collect.py", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    names = [make.name for make in PARTS]
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="records go here")
    parser.add_argument("--budget-minutes", type=float, default=9.0, metavar="N")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="PART", help=", ".join(names)
    )
    parser.add_argument("--resume", action="store_true", help="measure what DIR has not")
    parser.add_argument("--extra", type=Path, metavar="FILE", help="JSON list of private shapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="rehearse in tiny sizes on the CPU")
    options = parser.parse_args(arguments)
    if not 0 < options.budget_minutes < 24 * 60:
        parser.error(f"--budget-minutes {options.budget_minutes}: expected minutes above 0")
    try:
        if options.extra:
            read_extra(options.extra)
    except (OSError, ValueError) as error:
        parser.error(f"--extra: {error}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 fine, 1 a run that broke or could not begin, 2 wrong use."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit stops it so
    try:
        return collect(options)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"collect.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"collect.py: stopped; {options.out} has what was measured, --resume goes on with it")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
