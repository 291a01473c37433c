"""Measure what a GPU does with the shapes that gacfx reasons about.

    python benchmarks/gpu/collect.py --out DIR [--budget-minutes 9] [--only PART] [--resume]

Needs torch, transformers and numpy; no installation, network or weights. Results stream to
DIR/records.jsonl; the README beside this file says what they mean.
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

if not __package__:  # run as a file: the checkout takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.gpu import machine
from benchmarks.gpu.cases.gemm import Gemm
from benchmarks.gpu.journal import Journal, key
from benchmarks.gpu.part import Part, Rates, Setting
from benchmarks.gpu.parts.ceilings import Ceilings
from benchmarks.gpu.parts.decompose import Decompose
from benchmarks.gpu.parts.dispatch import Dispatch, read_extra
from benchmarks.gpu.parts.end_to_end import EndToEnd
from benchmarks.gpu.parts.figures import Figures
from gacfx.hardware.measure.timing import make_timer

PARTS = (Ceilings, EndToEnd, Dispatch, Figures, Decompose)
"""The ceilings come first, because all floors need them. The models come before ``dispatch``: its
profiler stays in the process (CUPTI is not torn down) and slows every later launch of the host."""
SHARE = {"end-to-end": 0.45, "dispatch": 0.75, "figures": 0.95}
"""Part -> share of the whole time after which the next part has its turn."""
CLOCKS_EVERY_S = 15.0
LAUNCHES = 2000
"""Tiny kernels that are timed with the clocks: what a launch costs the host; the times of eager
mode hang on it, and a profiler or a busy host changes it."""
CANARY_SIZE = 4096
"""M = N = K of a matmul that is timed with the clocks: if it drifts, so did everything else."""
SHOWN_ERRORS = 5
"""Different errors of a part that are printed."""


@dataclass(slots=True)
class Tally:
    """What became of the items of a part."""

    done: int = 0
    failed: int = 0
    left: int = 0
    took_s: float = 0.0
    lines: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> dict[str, int]:
        """For the journal."""
        return {"done": self.done, "failed": self.failed, "left": self.left}


class Run:
    """One run: parts in order, each item into the journal, within the time budget."""

    def __init__(self, journal: Journal, setting: Setting) -> None:
        self._journal = journal
        self._timer = setting.timer
        size = 64 if setting.dry else CANARY_SIZE
        self._canary = Gemm(size, size, size).prepare(setting.timer.device)
        self._little = torch.zeros(32, device=setting.timer.device)
        self._begin = time.monotonic()
        self._clocks_at = 0.0
        self.broken = False

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._begin

    def part(self, part: Part, limit_s: float, skip: set[str]) -> Tally:
        """Measure the items of a part until its limit."""
        tally, begin = Tally(), self.elapsed()
        for item in part.items():
            if key(part.name, asdict(item)) in skip:
                continue
            if self.broken or self.elapsed() + part.seconds(item) > limit_s:
                tally.left += 1
                continue
            self._item(part, item, tally)
        if not self.broken:
            part.close()
        tally.took_s = round(self.elapsed() - begin, 1)
        return tally

    def _item(self, part: Part, item: object, tally: Tally) -> None:
        begin = time.monotonic()
        fields = {"part": part.name, "item": asdict(item)}  # type: ignore[call-overload]
        try:
            result = part.measure(item)
            json.dumps(result, allow_nan=False)  # what the journal cannot hold is a failure too
            line = part.headline(item, result)
            outcome: dict[str, object] = {"result": result}
        except Exception as error:  # an illegal shape, or too little memory, is an answer too
            outcome = {"error": f"{type(error).__name__}: {error}"[:400]}
        if "error" in outcome:
            tally.failed += 1
            tally.errors[str(outcome["error"]).split("\n")[0][:100]] += 1
            # Not by its words: cuBLAS says "CUDA error" of every shape that it does not support.
            self.broken = not self._alive()
            if self.broken:
                outcome["broke"] = True  # a resumed run would break here again
        else:
            tally.done += 1
            tally.lines += [line] if line else []
        self._journal.write("item", **fields, took_s=round(time.monotonic() - begin, 3), **outcome)
        if not self.broken:
            self._note_clocks()

    def _alive(self) -> bool:
        """Whether the device still computes: an error that spoils it comes back in every call."""
        try:
            self._timer.once(self._canary.call)
        except RuntimeError:
            return False
        return True

    def _note_clocks(self) -> None:
        if self.elapsed() - self._clocks_at < CLOCKS_EVERY_S:
            return
        self._clocks_at = self.elapsed()
        canary_us = self._timer.warm(self._canary.call).median_us
        at_s = round(self.elapsed(), 1)
        launch_us = round(self._timer.once(self._launches) * 1e6 / LAUNCHES, 2)
        seen = machine.clocks(lambda: self._timer.once(self._load))
        self._journal.write("clocks", at_s=at_s, canary_us=canary_us, launch_us=launch_us, **seen)

    def _launches(self) -> None:
        for _ in range(LAUNCHES):
            self._little.add_(1)

    def _load(self) -> None:
        for _ in range(50):
            self._canary.call()


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
    head, dirty = machine.commit()
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


def check_same_machine(journal: Journal, stamp: dict[str, object], *, dry: bool) -> None:
    """Raises ValueError if the journal's records are of another device, or of a rehearsal."""
    for record in journal.past:
        if record["kind"] != "run":
            continue
        name = record.get("machine", {}).get("name", "an unknown machine")
        if record.get("dry") != dry or name != stamp["name"]:
            kind = "a rehearsal" if record.get("dry") else name
            raise ValueError(f"{journal.path} holds records of {kind}; take another folder")


def print_part(name: str, tally: Tally) -> None:
    """The part's lines, as soon as it is over."""
    print(f"\n{name}  {tally.done} measured, {tally.failed} failed, {tally.left} left", flush=True)
    for line in tally.lines:
        print(f"  {line}", flush=True)
    for error, count in tally.errors.most_common(SHOWN_ERRORS):
        print(f"  {count} x {error}", flush=True)


def print_end(tallies: dict[str, Tally], path: Path, run: Run) -> None:
    """The table at the end."""
    print(f"\n{'part':14}{'measured':>9}{'failed':>8}{'left':>6}{'seconds':>9}")
    for name, tally in tallies.items():
        print(f"{name:14}{tally.done:9}{tally.failed:8}{tally.left:6}{tally.took_s:9.1f}")
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
