"""The machine, how it was measured, whether its clocks held, and what it can do at best."""

from collections.abc import Iterable
from typing import Any

from benchmarks.gpu.summary.records import Entry, Records
from benchmarks.gpu.summary.tables import NONE, Table, number, over, percent, table
from gacfx.hardware import profile
from gacfx.hardware.measure.journal import Record
from gacfx.hardware.profile import Profile

MAX_DRIFT = 0.05
"""A canary that differs by more within a run says that the clocks did not hold."""
THROTTLE = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}
"""Reasons that slow a card down; nvml.h, nvmlClocksEventReasons. Idle and set clocks do not."""
CLOCKS = (
    ("sm_mhz", "SM clock", "MHz"),
    ("power_w", "power", "W"),
    ("temperature_c", "temperature", "°C"),
)
"""(field of a clock record, its name on the page, unit)."""
FACTS = (
    ("name", "device"),
    ("compute_capability", "compute capability"),
    ("sms", "streaming multiprocessors"),
    ("memory_gib", "memory, GiB"),
    ("l2_mib", "L2, MiB"),
    ("driver", "driver"),
    ("cuda", "CUDA"),
    ("cudnn", "cuDNN"),
    ("cublas", "cuBLAS"),
    ("matmul_precision", "fp32 matmul precision"),
    ("python", "Python"),
)
"""Field of the machine -> its name on the page."""


def machine_table(records: Records) -> Table:
    """What the newest run says of its machine."""
    machine = records.machine
    rows = [(label, _fact(machine[name])) for name, label in FACTS if machine.get(name) is not None]
    rows += [(str(name), str(v)) for name, v in sorted(machine.get("packages", {}).items())]
    return table(("", ""), rows)


def runs_table(records: Records) -> Table:
    """When, from which commit, with which command, and how far each run came."""
    took = {end["run"]: end for end in records.ends}
    rows = []
    for run in records.runs:
        end = took.get(run["run"])
        commit = str(run.get("commit") or NONE)[:12] + (" with changes" if run.get("dirty") else "")
        parts = "cut short" if end is None else _counts(end.get("parts", {}))
        seconds = NONE if end is None else number(float(end["took_s"]))
        command = f"`{run.get('command', '')}`"
        rows.append((str(run.get("started", NONE)), commit, command, seconds, parts))
    return table(("started", "commit", "command", ">s", "done (failed, left)"), rows)


def clock_line(records: Records) -> str:
    """Clocks, power and temperature while it worked; empty without clock records."""
    seen = [c for c in records.clocks if c.get("sm_mhz") is not None]
    if not seen:
        return ""
    parts = []
    for name, label, unit in CLOCKS:
        values = [float(clock[name]) for clock in seen if isinstance(clock.get(name), int | float)]
        parts += [f"{label} {_span(values)} {unit}"] if values else []
    return f"{'; '.join(parts)} in {len(seen)} samples."


def warnings(records: Records) -> list[str]:
    """What makes the times doubtful: a throttled card, a drifting canary, mixed machines."""
    found = []
    reasons = sorted({name for clock in records.clocks for name in throttled(clock)})
    if reasons:
        slow = sum(bool(throttled(clock)) for clock in records.clocks)
        found.append(
            f"The card held back in {slow} of {len(records.clocks)} samples: {', '.join(reasons)}."
        )
    for run, drift in sorted(_drifts(records.clocks).items()):
        if drift > MAX_DRIFT:
            found.append(
                f"In run {run} the same matmul took up to {1 + drift:.2f} times its shortest time: "
                "smaller differences between items mean nothing."
            )
    if len({str(run.get("machine", {}).get("name")) for run in records.runs}) > 1:
        found.append("The runs come from different devices; only the newest is named here.")
    if records.dry:
        found.append("A rehearsal in tiny sizes on a CPU: no time on this page is a measurement.")
    return found


def throttled(clock: Record) -> list[str]:
    """Names of the active reasons that slow the card down."""
    value = clock.get("throttle")
    if value is None:
        return []
    try:
        mask = int(value, 16) if isinstance(value, str) else int(value)
    except ValueError:
        return [str(value)]
    return [name for bit, name in THROTTLE.items() if mask & bit]


def profile_for(records: Records) -> Profile | None:
    """The profile of this device with the machine's torch and cuDNN; None if there is none."""
    for name in profile.names():
        found = profile.load(name)
        if found.device == records.device:
            return found.with_stack(torch=_torch(records.torch), cudnn=records.machine.get("cudnn"))
    return None


def ceilings_table(records: Records, known: Profile | None) -> Table:
    """Measured rates beside the nominal ones of the profile."""
    rows = []
    for entry in records.results("ceilings"):
        what, dtype = str(entry.item["what"]), str(entry.item["dtype"])
        value, unit = _rate(entry)
        nominal = _nominal(what, dtype, known)
        label = {"copy": "copy, read + written", "event": "empty pair of events"}.get(what, what)
        kind = dtype if what == "matmul" else ""
        size = str(entry.item.get("size") or "")
        share = percent(over(value, nominal))
        rows.append((label, kind, size, f"{number(value)} {unit}", _with(nominal, unit), share))
    return table(("what", "dtype", ">size", ">measured", ">nominal", ">share"), rows)


def decompose_table(records: Records) -> Table:
    """Seconds of planning's linear algebra."""
    entries = records.results("decompose")
    return table(
        ("what", ">size", "dtype", ">seconds", ">relative error"),
        (
            (
                str(e.item["what"]),
                str(e.item["size"]),
                str(e.item["dtype"]),
                number(e.number("seconds")),
                number(e.number("relative_error")),
            )
            for e in entries
        ),
    )


def _drifts(clocks: Iterable[Record]) -> dict[int, float]:
    """Run -> longest over shortest canary, less 1."""
    by_run: dict[int, list[float]] = {}
    for clock in clocks:
        if clock.get("canary_us"):
            by_run.setdefault(int(clock["run"]), []).append(float(clock["canary_us"]))
    return {run: max(found) / min(found) - 1 for run, found in by_run.items()}


def _torch(version: str) -> tuple[int, int] | None:
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])


def _rate(entry: Entry) -> tuple[float | None, str]:
    for field, unit in (("tflops", "TFLOPS"), ("gbps", "GB/s"), ("us", "us")):
        if (value := entry.number(field)) is not None:
            return value, unit
    return None, ""


def _nominal(what: str, dtype: str, known: Profile | None) -> float | None:
    if known is None:
        return None
    if what == "copy":
        return known.bandwidth_gbps
    return known.peak_tflops.get(dtype) if what == "matmul" else None


def _with(value: float | None, unit: str) -> str:
    return NONE if value is None else f"{number(value)} {unit}"


def _counts(parts: dict[str, dict[str, int]]) -> str:
    return "; ".join(f"{n} {p['done']} ({p['failed']}, {p['left']})" for n, p in parts.items())


def _fact(value: Any) -> str:
    return ".".join(map(str, value)) if isinstance(value, list) else str(value)


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"
