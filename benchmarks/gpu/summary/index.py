"""The index of all measured machines, and what still waits for one."""

from collections.abc import Iterable, Sequence

from benchmarks.gpu.summary import page, paper
from benchmarks.gpu.summary.exhibits import EXHIBITS, Exhibit
from benchmarks.gpu.summary.models import timings
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.summary.tables import NONE, Table, folded, ms, over, table, times

HEAD = "# GPU results\n"
NOTHING = (
    "**No GPU has been measured yet.** Every GPU time that gacfx prints is a forecast from rules. "
    "The table below says what the papers report, and which part of the collection will answer "
    "it.\n"
)
HOW = """## Add a machine

One GPU, under ten minutes, from an uninstalled checkout, without weights or network:

    python benchmarks/gpu/collect.py --out benchmarks/results/NAME --budget-minutes 9
    python -m benchmarks.gpu.summarise

The first writes records, the second this index and a page under `docs/results/NAME`. `--resume`
goes on with a run that was cut. What is measured, and how, is in
[benchmarks/gpu](../../benchmarks/gpu/README.md).
"""
PAPERS = """## What the papers report, and what answers it

GAC-v1 is *Why Smaller Is Slower* (anonymous preprint), GAC-v2 is arXiv 2604.09595 (EuroMLSys '26).
The numbers are theirs, on an A100-80GB in fp16 where nothing else is said; a figure without numbers
in the text has none here.
"""
PARSE = f"""PARSE (arXiv 2605.08568) reports prefill up to {paper.PARSE_PREFILL.text()} and decode
up to {paper.PARSE_DECODE.text()} as fast as native SVD on LLaMA-7B. Routing is not in this release,
and no part covers it.
"""
REST = "Figures and tables that no GPU run answers"


def index(machines: Sequence[Records]) -> str:
    """The index as markdown, machines by name."""
    ordered = sorted(machines, key=lambda records: records.name)
    first = _machines(ordered).markdown() if ordered else NOTHING
    asked = _asked([exhibit for exhibit in EXHIBITS if not exhibit.answer], ordered)
    rest = _rest([exhibit for exhibit in EXHIBITS if exhibit.answer])
    return "\n".join(
        [HEAD, first, HOW, PAPERS, asked.markdown(), PARSE, folded(REST, rest.markdown())]
    )


def _machines(ordered: Iterable[Records]) -> Table:
    rows = []
    for records in ordered:
        found = timings(records)
        at = found.headline("prefill")
        dense = found.dense_us(at) if at else None
        own, aligned = (found.us(at, v) if at else None for v in ("asvd", "asvd-aligned"))
        link = f"[{records.device}]({records.name}/README.md)"
        ratios = (times(over(own, dense)), times(over(aligned, dense)))
        careful = str(len(page.warnings(records)) or NONE)
        rows.append((link, records.day, records.torch, ms(dense), *ratios, careful))
    header = ("machine", "measured", "torch", ">Llama-3-8B dense, ms", ">ASVD of dense")
    return table((*header, ">ASVD aligned, of dense", ">warnings"), rows)


def _asked(exhibits: Iterable[Exhibit], ordered: Sequence[Records]) -> Table:
    return table(
        ("paper", "shows", "its numbers", "answered by", "here"),
        ((e.where, e.shows, e.published or NONE, e.source(), _here(e, ordered)) for e in exhibits),
    )


def _rest(exhibits: Iterable[Exhibit]) -> Table:
    return table(
        ("paper", "shows", "its numbers", "why"),
        ((e.where, e.shows, e.published or NONE, e.answer) for e in exhibits),
    )


def _here(exhibit: Exhibit, ordered: Iterable[Records]) -> str:
    done = [f"[{r.name}]({r.name}/README.md)" for r in ordered if exhibit.answered(r)]
    return ", ".join(done) or "waits"
