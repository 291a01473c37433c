"""The page of one machine, and the index of all: markdown that a terminal shows as well."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.gpu.summary import bars
from benchmarks.gpu.summary.agreement import judge
from benchmarks.gpu.summary.calls import Call, calls, named, sweeps
from benchmarks.gpu.summary.ceilings import ceilings_table, profile_for
from benchmarks.gpu.summary.doubts import doubts
from benchmarks.gpu.summary.plans import plans_table
from benchmarks.gpu.summary.ranking import forecasts, rankings
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.tables import NONE, Table, table
from gacfx.hardware.kernel_names import unknown
from gacfx.hardware.profile import Profile, names

ABSENT = "Not measured in this run.\n"
NOTHING = (
    "**No GPU has been measured yet.** Every GPU time that gacfx prints is a forecast from rules.\n"
)
HOW = """## Add a machine

One GPU, under ten minutes, from an uninstalled checkout, without weights or network:

    python benchmarks/gpu/collect.py --out benchmarks/results/NAME --budget-minutes 9
    python -m benchmarks.gpu.summarise

The first writes records, the second this index and a page under `docs/results/NAME`. `--resume`
goes on with a run that was cut. What is measured, and how, is in
[benchmarks/gpu](../../benchmarks/gpu/README.md).
"""


def page(records: Records) -> str:
    """The whole page of one machine."""
    known = profile_for(records)
    found = calls(records, "dispatch", failed=True)
    said = "".join(f"> - {doubt}\n" for doubt in doubts(records))
    failed = ((entry.part, named(entry), entry.error) for entry in records.errors())
    raised = table(("part", "item", "error"), failed)
    parts = [
        f"# {records.device}\n",
        f"{records.day}, torch {records.torch or 'unknown'}, commit {_commits(records)}. Times are "
        "medians. What was measured, and how, is in "
        "[benchmarks/gpu](../../../benchmarks/gpu/README.md).\n",
        *([f"> [!WARNING]\n{said}"] if said else []),
        *_section("Llama-3-8B, end to end", plans_table(records)),
        *_rules(records, found, known),
        *_section("Ceilings", ceilings_table(records, known)),
        *_section("Kernel names that no rule knows", _unknown(found), "None.\n"),
        *_section("Items that raised", raised, "None.\n"),
    ]
    return "\n".join(parts)


def index(machines: Sequence[Records]) -> str:
    """All machines, by name."""
    rows = [
        (
            f"[{records.device}]({records.name}/README.md)",
            *(records.day, records.torch, str(len(doubts(records)) or NONE)),
        )
        for records in sorted(machines, key=lambda records: records.name)
    ]
    header = ("machine", "measured", "torch", ">doubts")
    first = table(header, rows).markdown() if rows else NOTHING
    return "\n".join(["# GPU results\n", first, HOW])


def _rules(records: Records, found: Sequence[Call], known: Profile | None) -> list[str]:
    """What the rules and the latency model say, against what was seen."""
    title = "The rules against the machine"
    if not found:
        return _section(title, None)
    if known is None:
        there = ", ".join(names())
        no_profile = f"gacfx has no profile for {records.device} (there are {there}).\n"
        return _section(title, None, no_profile)
    drawn = calls(records, "figures")
    made = forecasts(found, known)
    ranked = rankings([*sweeps(found), *sweeps(drawn)], [*made, *forecasts(drawn, known)])
    verdicts = judge(found, known)
    stack = f"{known.stack.torch[0]}.{known.stack.torch[1]} and cuDNN {known.stack.cudnn}"
    return [
        *_section(title, bars.bars_table(bars.bars(verdicts, made, ranked))),
        f"Profile `{known.name}` for torch {stack}. Calls whose records do not tell are not "
        "judged; forecasts are held against cold times.\n",
        *_section("Where the rules are wrong", bars.disagreements(verdicts), "Nowhere.\n"),
        *_section("Error of the forecast, by rule", bars.errors_by_rule(made)),
        *_section("Ranking of sizes, by sweep", bars.rankings_table(ranked)),
    ]


def _section(title: str, found: Table | None, absent: str = ABSENT) -> list[str]:
    return [f"## {title}\n", found.markdown() if found and found.rows else absent]


def _unknown(found: Sequence[Call]) -> Table:
    counts = Counter(name for call in found for name in set(unknown(call.kernels)))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return table(("kernel", ">calls"), ((name, str(count)) for name, count in ordered))


def _commits(records: Records) -> str:
    """Of all runs, in their order; with a mark where the checkout had changes."""
    told = [
        str(run.get("commit") or "unknown")[:12] + (" with changes" if run.get("dirty") else "")
        for run in records.runs
    ]
    return ", ".join(dict.fromkeys(told))
