"""docs/results/paper.md, made of the results of the papers' tables.

    python -m benchmarks.paper.pages

Tables whose results are not there yet are named with their command.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper import views
from benchmarks.paper.printed import V1, V2
from benchmarks.record import RESULTS
from gacfx.core.files.atomic import replacing
from gacfx.core.files.reading import read_table

PAGE = Path(__file__).parents[2] / "docs" / "results" / "paper.md"
FILES = ("paper_solver", "paper_table3", "paper_table5", "paper_numbers")
Results = Mapping[str, Any]

HEAD = f"""\
# The tables of the GAC papers

Made by commands of [benchmarks/paper](../../benchmarks/paper), from the results that each section
names; this page by `python -m benchmarks.paper.pages`. What the papers print is marked as
**printed**: it is about Llama-3-8B on an A100 and was measured by nobody here. *{V1}*; *{V2}*.

Perplexities are of WikiText-2 in its token form (`<unk>`, blanks around punctuation), in float32,
each window alone and from its second token on, windows side by side: length and stride stand with
each table. They cannot be compared with papers that read the raw form, nor with those of another
tokenizer.
"""
SOLVER = """\
## Table 2 of GAC-v1: the solver

    {command}

{matrices} matrices of Llama-3-8B's shapes, {billions:.2f} billion parameters. Importance scores
are **synthetic** (seeded draws, {draws} of them), as no weights of that size are here; so what is
aligned and kept is that of such scores. Brackets: printed. Importance is score x rank (Eq. 1 of
GAC-v1) against the unconstrained ranks; times are of the processor. {busy}

{table}
- Aligned sizes are chosen among fewer, so the same objective under the same budget cannot come out
  higher than its best unaligned plan (*any rank*). Keeping more than the unconstrained ranks, as
  printed (1.064, 1.072), says that those were not the best ones for Eq. 1: they are in proportion
  to importance, while a straight line has its best plan at the ends of what is offered. A plan
  that may go far from those ranks (*exact*) keeps more than one near them (*exact, window*).
- Table 2 prints that Round-Nearest keeps the budget in all four cases. Rounding may exceed it;
  *over budget* counts how often.
"""
TABLE3 = """\
## Table 3 of GAC-v1: end to end at {percent} % removed

    {command}

{model}; {tokens:,} tokens of {text}, windows of {window}, stride {stride}. Milliseconds are a
forecast from rules for an A100 (batch 1, 512 tokens, bf16), as the paper's are an estimate from
single operations. Zero-shot: mean accuracy, ± one standard error.

{table}
**Printed**, Llama-3-8B:

{printed}
- Printed, ASVD has 5.31 and GAC with ASVD 5.58 billion parameters, 5.1 % more: its better
  perplexity has two causes. Here the knapsack gets what ASVD's own ranks keep, not a parameter
  more.
- Printed, ASVD is aligned to 50.9 % here, and to 27.7 % at best in Table 1.
"""
TABLE5 = """\
## Table 5 of GAC-v2: {percent} % removed

    {command}

{model}, calibrated on {calibration:,} tokens; {tokens:,} tokens of {text}, windows of {window},
stride {stride}. *Aligned* is the share of the dims that were changed and are multiples of 8.
{asvd} LLM-Pruner prunes MLPs (root gate_proj) and leaves the first {first} layers alone.
{healed}

{quality}
{failed}{times}**Forecasts** from rules, not measured, in bf16, batch 1, {forecast} tokens:
times as fast as the dense model.

{forecasts}
**Printed**, Llama-3-8B, 200 items of each task, milliseconds of a prefill of 1,024 tokens on an
A100:

{printed}
- With 200 items one standard error is 0.028 at an accuracy of 0.80 and 0.032 at 0.28: differences
  of 0.01 to 0.02 are not resolved, there or here.
- Printed, 83 % of LLM-Pruner's dims are aligned. That counts all of them, those too that were
  never pruned; here only changed ones count.
- Printed, the row *LLM-Pruner (GAC)* has 6.80 billion parameters against 6.79 unaligned, and the
  report in the authors' public workspace names it as LLM-Pruner's own `round_to=8`. Here that row
  is the knapsack, under the same budget.
- Printed, ASVD (GAC) takes 0.67 of the dense time with 0.85 of the parameters; at equal efficiency
  the arithmetic of the linear layers alone would predict about 0.85.
- A perplexity of 31 to 35, where the dense model has 6.14, says little about small differences.
  Sizes inside a window are chosen by a straight line (Eq. 4), so nearly all lie at its ends:
  aligned sizes of the knapsack may be better or worse than the method's own.
"""
NUMBERS = """\
## What each part of a plan brings

    {command}

{model}: rise of the loss over dense, nats per token, on {tokens:,} tokens of {text}; in brackets
what the plan promised, without a look at that text. Sizes are multiples of 8 where nothing else
is said; *healed* is the row above it, once it learnt from the dense model.

{table}{picture}"""
MISSING = "## {title}\n\nNot run yet: `python -m benchmarks.paper.{module}`\n"
TITLES = {
    "paper_solver": ("Table 2 of GAC-v1: the solver", "solver"),
    "paper_table3": ("Table 3 of GAC-v1: end to end", "table3 --smollm2 FOLDER --work FOLDER"),
    "paper_table5": ("Table 5 of GAC-v2", "table5 --smollm2 FOLDER --work FOLDER"),
    "paper_numbers": (
        "What each part of a plan brings",
        "numbers --smollm2 FOLDER --work FOLDER",
    ),
}
BUSY = "Other programs were at work."
TEXTS = {"wikitext": "WikiText-2 test", "stories": "TinyStories"}


def page(known: Mapping[str, Results | None]) -> str:
    """The whole page; file -> its results, None where there are none."""
    sections = {
        "paper_solver": solver,
        "paper_table3": table3,
        "paper_table5": table5,
        "paper_numbers": numbers,
    }
    parts = [HEAD]
    for name, write in sections.items():
        found = known.get(name)
        title, module = TITLES[name]
        missing = MISSING.format(title=title, module=module)
        parts.append(missing if found is None else write(found))
    return "\n".join(parts)


def solver(found: Results) -> str:
    """The section of table 2."""
    return SOLVER.format(
        command=command(found),
        matrices=found["matrices"],
        billions=found["params"] / 1e9,
        draws=found["rows"][0]["draws"],
        table=views.solver(found["rows"]).markdown(),
        busy=BUSY if found.get("busy") else "",
    )


def table3(found: Results) -> str:
    """The section of table 3."""
    return TABLE3.format(
        **common(found),
        table=views.table3(found["rows"]).markdown(),
        printed=views.printed3().markdown(),
    )


TIMES = """\
Times on this machine ({machine}, {threads} threads), batch 1, prompts and caches of {seq}
tokens: times as fast as the dense model, which was timed in turn with each row; in brackets the
interval of the median. {busy}

{table}
"""
HEALED = "No row but the healed one was tuned afterwards."
UNHEALED = "No row was tuned afterwards; the healed one is not made yet."


def table5(found: Results) -> str:
    """The section of table 5."""
    rows = found["rows"]
    cells = [row["latency"] for row in rows if "latency" in row]
    forecasts = [row["forecast"] for row in rows if "forecast" in row]
    failed = "".join(f"- {said}\n" for said in views.failures(rows))
    own = "the table of losses" if found["asvd"] == "asvd" else "stable ranks, its stand-in"
    return TABLE5.format(
        **common(found),
        calibration=found["calibration_tokens"],
        asvd=f"ASVD's own ranks come from {own} for losses." if cells or rows else "",
        first=found["first"],
        quality=views.quality5(rows).markdown(),
        failed=f"{failed}\n" if failed else "",
        healed=HEALED if any(row["name"].startswith("ours-healed") for row in rows) else UNHEALED,
        times=_times(found["machine"], rows, cells) if cells else "",
        forecast=_one(forecasts, "seq"),
        forecasts=views.forecasts5(rows).markdown(),
        printed=views.printed5().markdown(),
    )


def _times(machine: str, rows: list[Results], cells: list[Results]) -> str:
    return TIMES.format(
        machine=machine,
        threads=_one(cells, "threads"),
        seq=_one(cells, "seq"),
        busy=BUSY if any(cell["busy"] for cell in cells) else "",
        table=views.times5(rows).markdown(),
    )


def numbers(found: Results) -> str:
    """The section of the numbers."""
    picture = found.get("picture")
    said = f"\n![Excess loss, and promised against measured](../../benchmarks/results/{picture})\n"
    return NUMBERS.format(
        **common(found),
        table=views.numbers(found["rows"]).markdown(),
        picture=said if picture else "",
    )


def common(found: Results) -> dict[str, Any]:
    """What sections of a model say first."""
    text = found["evaluation"]
    return {
        "command": command(found),
        "model": found["model"],
        "percent": f"{100 * float(found.get('ratio', 0)):g}",
        "tokens": text["tokens"],
        "text": TEXTS[text["text"]],
        "window": text["window"],
        "stride": text["stride"],
    }


def command(found: Results) -> str:
    """The command of some results, folders of a machine left out."""
    words = shlex.split(found["command"])
    return " ".join(word if not Path(word).is_absolute() else "FOLDER" for word in words)


def _one(cells: Sequence[Mapping[str, Any]], key: str) -> str:
    """What all cells have of this, or that they differ."""
    values = sorted({str(cell[key]) for cell in cells})
    return values[0] if len(values) == 1 else " or ".join(values) or "no"


def main(given: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description="docs/results/paper.md, made of the results.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    asked = parser.parse_args(given)
    with replacing(asked.out) as partial:
        partial.write_text(page(read(asked.results)), encoding="utf-8")
    print(asked.out)
    return 0


def read(folder: Path) -> dict[str, Results | None]:
    """File -> its results; None where there are none."""
    paths = {name: folder / f"{name}.json" for name in FILES}
    return {name: read_table(path) if path.exists() else None for name, path in paths.items()}


if __name__ == "__main__":
    raise SystemExit(main())
