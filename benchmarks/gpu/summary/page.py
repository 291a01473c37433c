"""The page of one machine: the answer first, then tables, the long ones folded."""

from collections.abc import Iterable, Sequence

from benchmarks.gpu.summary import (
    answers,
    bars,
    dispatch,
    examine,
    figures,
    method,
    model_checks,
    model_page,
)
from benchmarks.gpu.summary.agreement import Verdict, judge
from benchmarks.gpu.summary.calls import Call, calls, sweeps
from benchmarks.gpu.summary.plots import Plot
from benchmarks.gpu.summary.ranking import forecasts, rankings
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.summary.tables import filled, folded, folded_table, section
from gacfx.hardware.profile import Profile, names

NO_PLOTS = "Written without plots: `pip install matplotlib` and summarise again.\n"
READING = (
    "Times are medians. *Cold* is with an empty L2, *warm* back to back in one CUDA graph. The "
    "*floor* is the longer of arithmetic and traffic at the ceilings of the same run, each operand "
    "moved once. What the parts measure is in "
    "[benchmarks/gpu](../../../benchmarks/gpu/README.md).\n"
)
MOST_DOUBTS = 20
"""More than these are folded."""
PICTURES = ("sdpa-head-dim", "gemm-sweeps", "gemm-sawtooth", "gemv", "tensor-core", "row-read")


def page(records: Records, plots: Sequence[Plot], *, drawn: bool = True) -> str:
    """The whole page as markdown.

    Args:
        records: of one machine.
        plots: what the records have data for.
        drawn: the files of the plots are beside the page.
    """
    known = method.profile_for(records)
    found = calls(records, "dispatch", failed=True)
    verdicts = judge(found, known) if known else []
    drawings = {plot.name: plot.markdown() for plot in plots} if drawn else {}
    parts = [
        f"# {records.device}\n",
        *_first(records, verdicts),
        f"{records.day}, torch {records.torch or 'unknown'}. {READING}",
        *([] if drawn or not plots else [NO_PLOTS]),
        *model_page.models(records, drawings),
        *_figures(records, drawings),
        *_rules(found, verdicts, known, records.device),
        *_dispatch(found),
        *section("Linear algebra of planning", filled(method.decompose_table(records))),
        *_machine(records, known),
        *_examine(records, found),
    ]
    return "\n".join(parts)


def warnings(records: Records) -> list[str]:
    """Everything that makes the page doubtful."""
    return [*method.warnings(records), *model_checks.warnings(records)]


def answer(records: Records) -> tuple[str, list[str]]:
    """(the paragraph on whole models, one sentence for everything else)."""
    known = method.profile_for(records)
    verdicts = judge(calls(records, "dispatch", failed=True), known) if known else []
    return answers.paragraph(records), answers.bullets(records, verdicts)


def _first(records: Records, verdicts: Sequence[Verdict]) -> list[str]:
    """What the machine says, and before it what makes that doubtful."""
    doubts = "".join(f"> - {warning}\n" for warning in warnings(records))
    paragraph, bullets = answers.paragraph(records), answers.bullets(records, verdicts)
    said = [f"{paragraph}\n"] if paragraph else []
    said += ["".join(f"- {bullet}\n" for bullet in bullets)] if bullets else []
    alert = [f"> [!WARNING]\n{doubts}"] if doubts else []
    return [*alert, *(said or [f"{answers.NOTHING}\n"])]


def _figures(records: Records, drawings: dict[str, str]) -> list[str]:
    summary = figures.figures_table(records)
    if not summary.rows:
        return section("Sweeps of the papers", [])
    body = [
        "Warm times, as the papers measured; the distance to the floor is that of the cold ones. "
        "*Aligned* is what the paper calls so, *misaligned* is no multiple of 8; a size costs what "
        "it takes beyond the next aligned one, which does more work.\n",
        summary.markdown(),
        *filled(figures.steps_table(records), "The steps that the papers name:\n"),
        *(drawings[name] for name in PICTURES if name in drawings),
    ]
    if figures.points(records, "sdpa-head-dim"):
        body += ["### FlashAttention templates\n", figures.table_2(records).markdown()]
    return section("Sweeps of the papers", body)


def _rules(
    found: Sequence[Call], verdicts: Sequence[Verdict], known: Profile | None, device: str
) -> list[str]:
    title = "The rules against the truth"
    if not found:
        return section(title, [])
    if known is None:
        there = ", ".join(names())
        return section(title, [f"gacfx has no profile for {device} (there are {there}).\n"])
    made = forecasts(found, known)
    ranked = rankings(sweeps(found), made)
    stack = f"{known.stack.torch[0]}.{known.stack.torch[1]} and cuDNN {known.stack.cudnn}"
    body = [
        f"Profile `{known.name}` for torch {stack}. Calls whose records do not tell are not "
        "judged; times are forecasts of the profile's latency model, against cold ones.\n",
        bars.bars_table(bars.bars(verdicts, made, ranked)).markdown(),
        "### Where the rules are wrong\n",
        *(filled(bars.disagreements(verdicts)) or ["Nowhere.\n"]),
        *folded_table("Latency error by rule", bars.errors_by_rule(made)),
        *folded_table("Kendall tau by sweep", bars.rankings_table(ranked)),
    ]
    return section(title, body)


def _dispatch(found: Sequence[Call]) -> list[str]:
    body: list[str] = []
    if found:
        body += ["### Kernels by divisibility\n", dispatch.table_3(found).markdown()]
        body.append("### Every call\n")
    for rule, question, calls_of_rule in dispatch.rule_tables(found):
        summary = f"<b>{rule}</b>: {question or 'calls'} ({len(calls_of_rule.rows)})"
        body += folded_table(summary, calls_of_rule)
    return section("Which kernel each shape gets", [*body, *unknown(dispatch.unknown_names(found))])


def _machine(records: Records, known: Profile | None) -> list[str]:
    line = method.clock_line(records)
    body = [
        method.machine_table(records).markdown(),
        f"{line or 'No clocks were recorded.'}\n",
        method.runs_table(records).markdown(),
    ]
    return [
        *section("Ceilings", filled(method.ceilings_table(records, known))),
        *section("Machine and method", body),
    ]


def _examine(records: Records, found: Sequence[Call]) -> list[str]:
    measured = [call for call in found if call.entry.result is not None]
    measured += calls(records, "figures")
    doubtful = examine.doubts_table(examine.doubts(records, measured, sweeps(measured)))
    few = len(doubtful.rows) <= MOST_DOUBTS
    limits = (
        f"p90 above {examine.MAX_SPREAD:g} times p10, or {examine.MAX_STEP:g} times the time of "
        "the sizes beside it"
    )
    return [
        "## To examine\n",
        f"{len(doubtful.rows) or 'Nothing'} with {limits}.\n",
        *(filled(doubtful) if few else folded_table("All of them", doubtful)),
        "## Calls that raised\n",
        *(filled(examine.errors_table(records.errors())) or ["None.\n"]),
    ]


def unknown(kernel_names: Iterable[tuple[str, int]]) -> list[str]:
    """Names that the classifier does not know: they are shown, not guessed."""
    lines = [f"- `{name}` ({count})\n" for name, count in kernel_names]
    summary = f"Kernel names that no rule knows ({len(lines)})"
    return [folded(summary, "".join(lines))] if lines else []
