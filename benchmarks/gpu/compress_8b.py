"""How long gacfx takes for a model of 8 billion parameters on one GPU, and what memory and disk.

    python benchmarks/gpu/compress_8b.py --out FILE.json [--folder DIR] [--work DIR] [--limit-s 540]
    python benchmarks/gpu/compress_8b.py --out FILE.json --dry-run

Makes a checkpoint of Llama-3-8B's shape with random weights in bfloat16, reads random tokens by it
one layer at a time, decomposes, plans at 0.2 for an H200 with value model ``auto``, and saves. Such
weights know nothing, so the losses mean nothing; every stage takes as long as it would. As many
layers as there is disk for, unless --layers says how many. FILE is written after each stage; when
the time is over it has what was measured until then.
"""

import argparse
import json
import math
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

if not __package__:  # run as a file: the checkout takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.gpu.llama.random_checkpoint import SHAPES, config_of, read_sizes, write_checkpoint
from gacfx.calibration.room import disk_of
from gacfx.calibration.text import Corpus
from gacfx.core.files.atomic import replacing
from gacfx.core.paging import lean, pages_of
from gacfx.core.store import Store
from gacfx.core.work_folder import WorkFolder
from gacfx.hardware.measure import machine

METHOD, RATIO, GPU = "gfwsvd", "0.2", "h200"
FREE = 0.9
"""Of the disk that is free, what may be taken."""
KEPT = 1.8
"""Sizes of the checkpoint that stand beside the work folder: it, and the compressed one."""


class TimeOver(BaseException):
    """No error: whatever catches errors lets it pass."""


class Timed(Store):
    """A work folder, and how long each kind of set took to make.

    What happened since the last set was put in counts for the kind of this one. Curves are not kept
    in it: to read them again takes pydantic, which such a machine may not have.
    """

    def __init__(self, inside: WorkFolder, layers: int) -> None:
        self.inside, self.layers, self.largest = inside, layers, 0
        self.begin()

    def __contains__(self, name: object) -> bool:
        return name in self.inside

    def keys(self, name: str) -> tuple[str, ...]:
        return self.inside.keys(name)

    def get(self, name: str, key: str) -> Tensor:
        return self.inside.get(name, key)

    def drop(self, name: str) -> None:
        self.inside.drop(name)

    def names(self) -> tuple[str, ...]:
        return self.inside.names()

    def size(self, name: str) -> int:
        return self.inside.size(name)

    def room(self) -> float:
        return self.inside.room()

    def close(self) -> None:
        self.inside.close()

    def begin(self) -> None:
        """Count from now on."""
        self.seconds, self.sets = dict[str, float](), dict[str, int]()
        self.since = time.perf_counter()

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.inside.put(name, tensors)
        self.count(self._kind(name))
        self.largest = max(self.largest, bytes_in(self.inside.path))

    def count(self, kind: str) -> None:
        """What happened until now was of this kind."""
        now = time.perf_counter()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self.since
        self.sets[kind], self.since = self.sets.get(kind, 0) + 1, now

    def captured(self, stage: str, done: float, _total: float) -> None:
        """Progress of a study: its first stage leaves no set."""
        if stage == "capture" and done:
            self.count(stage)

    def _kind(self, name: str) -> str:
        what, _, rest = name.partition(".")
        if what in ("hidden", "grads", "moments", "nats"):
            head = what == "nats" or (what == "grads" and rest.startswith(f"{self.layers}."))
            return "forward" if what == "hidden" else "head" if head else "backward"
        if what == METHOD:
            return f"decompose {rest.partition('.')[0]}"
        return {"loss": "evaluate", "reads": "forward"}.get(what, what)


class Measured:
    """What is in FILE."""

    def __init__(self, out: Path, facts: dict[str, Any]) -> None:
        self.out, self.facts = out, facts
        self.stages: list[dict[str, Any]] = []
        self.folder: Timed | None = None
        self.device = torch.device("cpu")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside; what the time limit cuts off counts as far as it came."""
        cuda, done = self.device.type == "cuda", False
        forget_peak()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        if self.folder is not None:
            self.folder.begin()
        begin, cpu = time.perf_counter(), time.process_time()
        try:
            yield
            if cuda:
                torch.cuda.synchronize()
            done = True
        finally:
            self._end(name, time.perf_counter() - begin, time.process_time() - cpu, done)

    def _end(self, name: str, seconds: float, cpu_seconds: float, done: bool) -> None:
        row: dict[str, Any] = {"stage": name, "seconds": round(seconds, 2), "done": done}
        row["cpu_seconds"] = round(cpu_seconds, 2)
        row["host_peak_gib"] = round(peak_gib(), 3)
        if self.device.type == "cuda":
            row["device_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        if self.folder is not None and self.folder.sets:
            row["parts"] = {
                kind: {"seconds": round(spent, 2), "sets": self.folder.sets[kind]}
                for kind, spent in self.folder.seconds.items()
            }
        self.stages.append(row)
        said = " ".join(f"{k} {v['seconds']:.1f}" for k, v in row.get("parts", {}).items())
        state = "" if done else "  (not to its end)"
        print(f"{name:16}{seconds:9.1f} s  host {row['host_peak_gib']:.2f} GiB{state}  {said}")
        self.write()

    def write(self) -> None:
        largest = 0 if self.folder is None else self.folder.largest
        found = {**self.facts, "work_folder_gib": round(largest / 2**30, 4), "stages": self.stages}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.out) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def forget_peak() -> None:
    """The most memory counts from now on; nothing happens where the system is not Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """The most memory that this process has had since then, or ever."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def random_text(tokens: int, window: int, vocabulary: int) -> Corpus:
    """Windows of random tokens."""
    random = torch.Generator().manual_seed(0)
    count = max(tokens // window, 2)
    made = torch.randint(0, vocabulary, (count, window), generator=random)
    return Corpus(tuple(made))


def layers_for(shape: dict[str, Any], tokens: int, model_at: Path, work_at: Path) -> int:
    """The most layers that there is disk for; what does not fit of components is made again."""
    one, whole = read_sizes(shape), shape["num_hidden_layers"]
    apart = model_at.stat().st_dev != work_at.stat().st_dev
    free, free_work = (FREE * shutil.disk_usage(each).free for each in (model_at, work_at))
    for layers in range(whole, 1, -1):
        sizes = one.deeper(layers)
        files, work = KEPT * sizes.params * sizes.itemsize, disk_of(sizes, tokens).least
        if (files <= free and work <= free_work) if apart else files + work <= free:
            return layers
    raise OSError(f"{work_at}: no room for two layers; name another folder, or give less text")


def room_for(files: float, model_at: Path, work_at: Path) -> int:
    """Bytes that the work folder may take beside the files of both models."""
    apart = model_at.stat().st_dev != work_at.stat().st_dev
    return int(FREE * shutil.disk_usage(work_at).free - (0 if apart else files))


def compress(options: argparse.Namespace, measured: Measured, at: Path, work_at: Path) -> None:
    """The whole road, stage by stage."""
    shape = {**SHAPES[options.shape]}
    shape["num_hidden_layers"] = options.layers or layers_for(shape, options.tokens, at, work_at)
    sizes = read_sizes(shape, options.dtype).deeper(shape["num_hidden_layers"])
    room = room_for(KEPT * sizes.params * sizes.itemsize, at, work_at)
    measured.facts |= {
        "shape": shape,
        "parameters": sizes.params,
        "targeted": sizes.targeted,
        "work_folder_may_take_gib": round(room / 2**30, 2),
        "predicted_work_folder_gib": round(disk_of(sizes, options.tokens).most / 2**30, 4),
    }
    with measured.stage("write"):
        config = config_of(shape, options.window)
        write_checkpoint(at / "model", config, options.dtype, measured.device)
    with measured.stage("import"):
        from gacfx import api
        from gacfx.checkpoint.save import save_checkpoint
        from gacfx.compressors.values import TRIED
        from gacfx.study import Study
        from gacfx.work import work_key

        profile = api.load_profile(GPU)
    with lean(pages_of(at / "model")):
        with measured.stage("load"):
            model, _ = api.load(at / "model")
        text = random_text(options.tokens, options.window, sizes.vocabulary)
        with measured.stage("digest"):
            key = work_key(model, text, skip=(), seed=0, structures=False)
        measured.folder = Timed(
            WorkFolder(work_at, key, most_bytes=room), shape["num_hidden_layers"]
        )
        with measured.stage("calibrate"):
            study = Study.make(
                model,
                text,
                method=METHOD,
                force=True,
                progress=measured.folder.captured,
                store=measured.folder,
                device=None if options.device == "none" else measured.device,
            )
        with measured.stage("curves"):
            study.curves(TRIED[0], study.fit, others=TRIED)
        with measured.stage("plan"):
            planned = study.plan(RATIO, profile=profile)
        measured.facts["value_model"] = planned.plan.provenance.value_model
        with measured.stage("evaluate"):
            study.measure(planned)
        with measured.stage("save"):
            api.apply_(model, planned)
            save_checkpoint(model, None, at / "small", plan=planned.plan, factors=planned.factors)
        study.close()


def run(options: argparse.Namespace) -> int:
    """0 when all stages were measured or the time was over, with what there is in FILE."""
    measured = Measured(options.out, stamp(options))
    if options.device != "none":
        measured.device = torch.device(options.device)
    previous = signal.signal(signal.SIGALRM, _over)
    signal.setitimer(signal.ITIMER_REAL, options.limit_s)
    begin = time.perf_counter()
    measured.facts["finished"] = False
    try:
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            tempfile.TemporaryDirectory(dir=options.work or folder) as work,
        ):
            compress(options, measured, Path(folder), Path(work))
            measured.facts["finished"] = True
            signal.setitimer(signal.ITIMER_REAL, 0)  # cleaning up is not cut off
    except TimeOver:
        print(f"the time is over: {options.out} has what was measured")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        measured.facts["seconds"] = round(time.perf_counter() - begin, 1)
        measured.write()
    print(f"{measured.facts['seconds']:.0f} s, work folder {measured_gib(measured):.2f} GiB")
    return 0


def measured_gib(measured: Measured) -> float:
    return 0.0 if measured.folder is None else measured.folder.largest / 2**30


def stamp(options: argparse.Namespace) -> dict[str, Any]:
    """Who measures, and on what."""
    head, dirty = record.commit()
    return {
        "command": " ".join(["compress_8b.py", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": head,
        "dirty": dirty,
        "dry": options.dry_run,
        "machine": machine.describe(),
        "device": options.device,
        "threads": torch.get_num_threads(),
        "dtype": str(options.dtype).removeprefix("torch."),
        "tokens": options.tokens,
        "window": options.window,
        "plan": {"method": METHOD, "ratio": RATIO, "profile": GPU, "value": "auto"},
        "limit_s": options.limit_s,
    }


def _over(_number: int, _frame: FrameType | None) -> None:
    raise TimeOver


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; wrong use ends with status 2 and a message."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="compress_8b.py", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--folder", type=Path, help="where both models lie meanwhile")
    parser.add_argument("--work", type=Path, help="where the work folder lies, if not there")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3-8b")
    parser.add_argument("--layers", type=int, help="instead of as many as there is disk for")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--window", type=int, default=2048, help="tokens of a document")
    parser.add_argument("--fp32", action="store_true", help="float32 instead of bfloat16")
    parser.add_argument("--device", default="cuda", help="none: layers compute where they are")
    parser.add_argument("--limit-s", type=float, default=540.0, metavar="N")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.shape, options.device = "tiny", "cpu"
        options.tokens, options.window = 2048, 128
    options.dtype = torch.float32 if options.fp32 else torch.bfloat16
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run rehearses on the CPU")
    if not (0 < options.limit_s < math.inf) or options.tokens < 2 * options.window:
        parser.error("expected seconds above 0, and text of two windows")
    if options.layers is not None and options.layers < 2:
        parser.error("expected at least two layers")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 fine, 1 a run that broke, 2 wrong use."""
    options = parse(arguments)
    try:
        return run(options)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"compress_8b.py: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
