"""The profile that a machine's records are held against, and its rates beside the measured ones."""

from benchmarks.gpu.summary.records import Entry, Records
from benchmarks.gpu.tables import NONE, Table, number, percent, table
from gacfx.hardware import profile
from gacfx.hardware.profile import Profile

UNITS = {"tflops": "TFLOPS", "gbps": "GB/s", "us": "us"}
"""Field of a result -> its unit."""


def profile_for(records: Records) -> Profile | None:
    """The profile of this device with the machine's torch and cuDNN; None if there is none."""
    for name in profile.names():
        found = profile.load(name)
        if found.device == records.device:
            return found.with_stack(torch=_torch(records.torch), cudnn=records.machine.get("cudnn"))
    return None


def ceilings_table(records: Records, known: Profile | None) -> Table:
    """Measured rates beside the nominal ones of the profile."""
    rows = [_row(entry, known) for entry in records.results("ceilings")]
    return table(("what", "dtype", ">measured", ">nominal", ">share"), rows)


def _row(entry: Entry, known: Profile | None) -> tuple[str, ...]:
    what, dtype = str(entry.item["what"]), str(entry.item["dtype"])
    field = next(name for name in UNITS if entry.number(name) is not None)
    found, nominal, unit = entry.number(field), _nominal(what, dtype, known), UNITS[field]
    share = found / nominal if found is not None and nominal else None
    told = NONE if nominal is None else f"{number(nominal)} {unit}"
    kind = dtype if what == "matmul" else ""
    return what, kind, f"{number(found)} {unit}", told, percent(share)


def _nominal(what: str, dtype: str, known: Profile | None) -> float | None:
    if known is None:
        return None
    if what == "copy":
        return known.bandwidth_gbps
    return known.peak_tflops.get(dtype) if what == "matmul" else None


def _torch(version: str) -> tuple[int, int] | None:
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])
