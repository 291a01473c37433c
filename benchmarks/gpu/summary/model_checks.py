"""Are the timed models the meant ones, and which kernels do they spend their time in?"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from benchmarks.gpu.summary.models import PART, cell, title
from benchmarks.gpu.summary.records import Entry, Records
from benchmarks.gpu.summary.tables import NONE, Table, ms, number, percent, table
from gacfx.hardware.kernel_names import Kernel, classify, unknown

MAX_MODE_ERROR = 0.05
"""Two orders of summation in bf16; benchmarks/gpu/llama/checks.py."""
SMALL_SHARE = 0.005
"""Classes below this share of the time are left out of a row."""


def checks_table(records: Records) -> Table:
    """What was compared, how far it is apart, and whether that is rounding."""
    return table(
        ("compared", ">relative error", ">limit", "verdict"),
        (
            (
                str(entry.result.get("what", "")),
                number(entry.number("relative_error")),
                number(entry.number("limit")),
                "fine" if _holds(entry) else "**WRONG**",
            )
            for entry in _kind(records, "check")
            if entry.result is not None
        ),
    )


def warnings(records: Records) -> list[str]:
    """Checks that failed, and modes that compute something else than the plain call."""
    found = [
        f"A check failed: {entry.result.get('what')} (relative error "
        f"{number(entry.number('relative_error'))})."
        for entry in _kind(records, "check")
        if entry.result is not None and not _holds(entry)
    ]
    far = [
        e for e in _kind(records, "time") if (e.number("relative_error") or 0.0) > MAX_MODE_ERROR
    ]
    return found + [
        f"{title(entry.item['variant'])}, {cell(entry.item).text()}: logits differ from those of "
        f"the plain call by {number(entry.number('relative_error'))}."
        for entry in far
    ]


def kernels_table(records: Records) -> Table:
    """Share of the kernels' time by class, for each variant and phase."""
    rows = []
    for entry in _kind(records, "kernels"):
        assert entry.result is not None
        row = (
            f"{title(entry.item['variant'])}, {entry.item['phase']}",
            number(entry.number("launches")),
            ms(entry.number("kernels_us")),
            _shares(entry),
        )
        rows.append(row)
    return table(("variant", ">launches", ">kernels, ms", "where the time goes"), rows)


def unknown_names(records: Records) -> list[tuple[str, int]]:
    """(kernel name, models) that the classifier does not know."""
    entries = _kind(records, "kernels")
    counts = Counter(name for entry in entries for name in set(unknown(_kernels(entry))))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _kind(records: Records, kind: str) -> list[Entry]:
    return [entry for entry in records.results(PART) if entry.item.get("kind") == kind]


def _holds(entry: Entry) -> bool:
    error, limit = entry.number("relative_error"), entry.number("limit")
    return error is not None and limit is not None and error <= limit


def _kernels(entry: Entry) -> list[Kernel]:
    found: Iterable[tuple[str, float, int]] = (entry.result or {}).get("kernels", [])
    return [Kernel(str(name), float(us)) for name, us, _ in found]


def _shares(entry: Entry) -> str:
    """``nvjet 71 %, align1 12 %, flash 9 %``; what is not among the largest is the rest."""
    total = entry.number("kernels_us") or 0.0
    took: dict[str, float] = defaultdict(float)
    for kernel in _kernels(entry):
        took[classify(kernel.name).kind or "unknown"] += kernel.us
    took["smaller ones"] += total - sum(took.values())
    ordered = sorted(took.items(), key=lambda item: (-item[1], item[0]))
    large = [(k, us / total) for k, us in ordered if total and us / total > SMALL_SHARE]
    return ", ".join(f"{kind} {percent(share)}" for kind, share in large) or NONE
