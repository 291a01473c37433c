"""What a compression costs by arithmetic, and whether the arithmetic agrees with runs.

    python -m benchmarks.cost [--out FILE] [--no-run]

The table is of :mod:`gacfx.calibration.products` and :mod:`gacfx.calibration.room` for machines
whose rates are assumptions, written down here. The check compares the same arithmetic with the runs
in results/, at rates that belong to the machine they ran on, and with a small run of now, at rates
that are measured beside it, in seconds of the processor as other programs may be at work. It ends
with 1 if memory, work folder or calibration are off by more than a factor of 1.5.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.gpu.llama.random_checkpoint import SHAPES, read_sizes
from benchmarks.gpu.tables import table
from gacfx.calibration.products import CALIBRATION, EVALUATIONS, Rates, Work, stages, total
from gacfx.calibration.room import device_bytes, disk_of, host_bytes
from gacfx.calibration.sizes import Sizes

TOKENS, WINDOW = 65_536, 2048
MOST = 1.5
"""Times that a forecast may be off, up or down."""
GIB = 2**30
BOTH = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules of coupled structures of a Llama."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What computes; rates are assumed."""

    name: str
    rates: Rates
    memory_gb: float
    device_gb: float | None = None
    """Of each device; None where the processor computes."""
    count: int = 1
    """Devices, over which text and weights are spread."""


H100 = Rates(own=400e12, fp32=40e12, fp64=45e12, eigh=4e10, touched=2e12, hashed=1.5e9, disk=2e9)
"""Of 989, 67 and 67 TFLOP/s and 3.35 TB/s in NVIDIA's data sheet (SXM), what large products reach;
an eigenproblem of 4096 in 1.7 s. Not measured here."""
MACHINES = (
    Machine(
        "laptop, 8 cores, 16 GB",
        Rates(own=4e11, fp32=4e11, fp64=2e11, eigh=1e10, touched=4e10, hashed=1.5e9, disk=1e9),
        memory_gb=16,
    ),
    Machine("one H100", H100, memory_gb=256, device_gb=80),
    Machine("eight H100", H100, memory_gb=1024, device_gb=80, count=8),
)
RECORDED = Rates(own=150e9, fp32=130e9, fp64=65e9, eigh=3.4e9, touched=8e9, hashed=1.5e9, disk=1e9)
"""One core of the machine of the runs in results/: a product of 4096 in float64 took it 2.1 s, an
eigenproblem 20 s; float32 taken as twice that, and those of bfloat16 from the bare passes of each
run. It had units for bfloat16; not every machine has."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model on a machine."""

    model: str
    machine: str
    parameters: int
    disk_gb: float
    disk_least_gb: float
    """With ``--disk``."""
    host_gb: float
    device_gb: float | None
    fits: bool
    calibrate_s: float
    decompose_s: float
    """Decompositions, curves and factors."""
    evaluate_s: float
    seconds: float
    seconds_least_disk: float


@dataclass(frozen=True, slots=True)
class Check:
    """A forecast beside what was measured."""

    run: str
    what: str
    predicted: float
    measured: float
    note: str = ""

    @property
    def times(self) -> float:
        return self.predicted / self.measured

    @property
    def good(self) -> bool:
        return 1 / MOST <= self.times <= MOST


def row_of(name: str, sizes: Sizes, machine: Machine) -> Row:
    """One line of the table."""
    device = machine.device_gb is not None
    disk, host = disk_of(sizes, TOKENS), host_bytes(sizes, device=device)
    on_device = device_bytes(sizes) if machine.device_gb is not None else None
    fits = host <= machine.memory_gb * 1e9
    if on_device is not None and machine.device_gb is not None:
        fits = fits and on_device <= machine.device_gb * 1e9
    found = stages(sizes, TOKENS, WINDOW)
    least = stages(sizes, TOKENS, WINDOW, kept=False)

    def seconds(works: dict[str, Work], names: Sequence[str]) -> float:
        work = total(works[name] for name in names)
        return round(machine.rates.seconds(work.on(machine.count)), 1)

    return Row(
        model=name,
        machine=machine.name,
        parameters=sizes.params,
        disk_gb=round(disk.most / 1e9, 1),
        disk_least_gb=round(disk.least / 1e9, 1),
        host_gb=round(host / 1e9, 1),
        device_gb=None if on_device is None else round(on_device / 1e9, 1),
        fits=fits,
        calibrate_s=seconds(found, CALIBRATION),
        decompose_s=seconds(found, ("decompositions", "curves", "factors")),
        evaluate_s=seconds(found, EVALUATIONS),
        seconds=seconds(found, list(found)),
        seconds_least_disk=seconds(least, list(least)),
    )


def committed() -> list[Check]:
    """The arithmetic and the runs in results/."""
    checks = []
    for file, shape in RUNS.items():
        for row in json.loads((record.RESULTS / f"{file}.json").read_text())["rows"]:
            dtype = torch.float32 if row["dtype"] == "fp32" else torch.bfloat16
            checks += _real(f"{file}.json", row, read_sizes(SHAPES[shape], dtype))
    run = json.loads((record.RESULTS / "pruning_smollm2.json").read_text())["smollm2"]
    sizes = read_sizes(SHAPES["smollm2-135m"], torch.float32, BOTH)
    rates = replace(RECORDED, own=RECORDED.fp32)
    told = rates.seconds(_calibration(sizes, run["calibration_tokens"]))
    checks.append(Check("pruning_smollm2.json", "calibration s", told, run["calibration_seconds"]))
    return checks


RUNS = {
    "real": "tinyllama-1.1b",
    "real_whole": "tinyllama-1.1b",
    "real_smollm2": "smollm2-135m",
    "real_smollm2_bf16": "smollm2-135m",
}
"""File of :mod:`benchmarks.real` in results/ -> shape that it ran."""
STORED = "bf16"
"""Dtype of the checkpoints of :mod:`benchmarks.real`."""


def _real(file: str, row: dict[str, Any], sizes: Sizes) -> list[Check]:
    tokens, threads = row["tokens"], row["threads"]
    found = stages(sizes, tokens, WINDOW)
    bare = found["forward"].own + found["head"].own + found["backward"].own
    per_second = {"own": bare / row["bare_seconds"]}
    spread = {name: threads * getattr(RECORDED, name) for name in ("fp32", "fp64", "touched")}
    rates = replace(RECORDED, **per_second, **spread)
    disk, run = disk_of(sizes, tokens), f"{file} {row['dtype']}"
    left = disk.moments if row["excess_nats"] is None else disk.least_after + disk.components
    told = rates.seconds(_calibration(sizes, tokens))
    host = host_bytes(sizes, converted=row["dtype"] != STORED)
    note = "at the rate of its bare passes"
    return [
        Check(run, "work folder GiB", left / GIB, row["work_gib"], "at the end"),
        Check(run, "peak GiB", host / GIB, row["peak_gib"]),
        Check(run, "calibration s", told, row["calibrate_seconds"], note),
    ]


def _calibration(sizes: Sizes, tokens: int) -> Work:
    found = stages(sizes, tokens, WINDOW)
    return total(found[name] for name in CALIBRATION)


LIVE: dict[str, Any] = {"shape": "smollm2-135m", "layers": 6, "tokens": 4096, "window": 1024}
"""A tenth of a model, whose head is whole: two minutes of one core."""


def live() -> tuple[list[Check], dict[str, float]]:
    """The arithmetic and a run of now, in float32 on one thread; the rates of this machine."""
    sizes = read_sizes(SHAPES[LIVE["shape"]], torch.float32).deeper(LIVE["layers"])
    before, found = rates_here(), _run()
    after = rates_here()
    rates = Rates(*((a + b) / 2 for a, b in zip(before, after, strict=True)))
    tokens, window = LIVE["tokens"], LIVE["window"]
    work = stages(sizes, tokens, window)
    rows = {row["stage"]: row for row in found["stages"]}
    planning = total(work[name] for name in ("decompositions", "curves", "factors", "trials"))
    peak = max(row["host_peak_gib"] for row in found["stages"])
    name = f"{LIVE['shape']}, {LIVE['layers']} layers, now"
    calibration = total(work[name] for name in CALIBRATION if name != "sample")  # it is forced
    told = rates.seconds(replace(calibration, hashed=0.0))  # digests are a stage before it
    spent = sum(rows[stage]["cpu_seconds"] for stage in ("curves", "plan"))
    disk = disk_of(sizes, tokens).most / GIB
    return [
        Check(name, "work folder GiB", disk, found["work_folder_gib"]),
        Check(name, "peak GiB", host_bytes(sizes) / GIB, peak),
        Check(name, "calibration CPU s", told, rows["calibrate"]["cpu_seconds"]),
        Check(name, "curves and plan CPU s", rates.seconds(planning), spent),
    ], asdict(rates)


def _run() -> dict[str, Any]:
    """What benchmarks/gpu/compress_8b.py measures in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        words = [f"--{name}={value}" for name, value in LIVE.items()]
        words += ["--fp32", "--device=none", f"--out={out}", f"--folder={folder}"]
        script = Path(__file__).parent / "gpu" / "compress_8b.py"
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, str(script), *words], check=True, env=env, stdout=subprocess.DEVNULL
        )
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def rates_here() -> tuple[float, ...]:
    """The fields of :class:`Rates` in float32 on one thread of this machine, by its CPU time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        products = {d: 2 * 1024**3 / _spent(_product(d)) for d in (torch.float32, torch.float64)}
        half = torch.randn(1024, 1024, dtype=torch.float64)
        eigh = 1024**3 / _spent(lambda: torch.linalg.eigh(half @ half.T))
        many = torch.randn(2**24)
        touched = 2 * many.nbytes / _spent(lambda: many.softmax(0))
        some = os.urandom(2**27)
        hashed = len(some) / _spent(lambda: hashlib.sha256(some))
        with tempfile.TemporaryFile() as file:
            disk = len(some) / _spent(lambda: file.write(some))
    finally:
        torch.set_num_threads(threads)
    own = products[torch.float32]
    return own, own, products[torch.float64], eigh, touched, hashed, disk


def _product(dtype: torch.dtype) -> Callable[[], object]:
    factor = torch.randn(1024, 1024, dtype=dtype)
    return lambda: factor @ factor


def _spent(call: Callable[[], object]) -> float:
    """CPU seconds of the faster one of two."""
    found = []
    for _ in range(2):
        begin = time.process_time()
        call()
        found.append(time.process_time() - begin)
    return max(min(found), 1e-6)


def show(rows: Sequence[Row]) -> str:
    """The table, as it stands in docs/scale.md."""
    header = ["model", "on", ">disk GB", ">least GB", ">memory GB", ">device GB"]
    header += [">calibration", ">decompositions", ">evaluations", ">all", ">on the least disk"]
    lines = []
    for row in rows:
        device = "" if row.device_gb is None else f"{row.device_gb:,.1f}"
        sizes = (f"{row.disk_gb:,.1f}", f"{row.disk_least_gb:,.1f}", f"{row.host_gb:,.1f}", device)
        each = (row.calibrate_s, row.decompose_s, row.evaluate_s, row.seconds)
        spent = tuple(duration(one) for one in (*each, row.seconds_least_disk))
        on = row.machine if row.fits else f"{row.machine}: does not fit"
        lines.append((row.model, on, *sizes, *spent))
    return table(header, lines).markdown()


def duration(seconds: float) -> str:
    """Two digits of it."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return (
                f"{seconds / size:.2g} {unit}"
                if seconds / size < 10
                else f"{seconds / size:.0f} {unit}"
            )
    return f"{seconds / 86_400:,.0f} days"


def main(given: Sequence[str] | None = None) -> int:
    """0 when every forecast is near what was measured, else 1."""
    parser = argparse.ArgumentParser(description="What a compression costs, by arithmetic.")
    parser.add_argument("--no-run", action="store_true", help="check committed runs only")
    parser.add_argument("--out", type=Path, help="of the results (default: results/cost.json)")
    asked = parser.parse_args(given)
    sizes = {name: read_sizes(shape) for name, shape in SHAPES.items() if name != "tiny"}
    rows = [row_of(name, each, machine) for name, each in sizes.items() for machine in MACHINES]
    print(f"by arithmetic, {TOKENS:,} tokens, bfloat16; rates of machines are assumptions\n")
    print(show(rows))
    checks, rates = committed(), dict[str, float]()
    if not asked.no_run:
        more, rates = live()
        checks += more
    for check in checks:
        verdict = "good" if check.good else "OFF "
        print(
            f"{verdict}  {check.run:32} {check.what:22} predicted {check.predicted:9.2f}  "
            f"measured {check.measured:9.2f}  x {check.times:.2f}  {check.note}"
        )
    results = {
        "rows": [asdict(row) for row in rows],
        "machines": [asdict(machine) for machine in MACHINES],
        "rates_of_this_core": rates,
        "checks": [{**asdict(each), "times": round(each.times, 3)} for each in checks],
    }
    print(record.write("cost", results, asked.out))
    return 0 if all(check.good for check in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
