"""Table 5 of GAC-v2 on a model that is at hand: quality, alignment and time at one ratio.

    python -m benchmarks.paper.table5 --smollm2 FOLDER --work FOLDER [--statistics FOLDER]
    python -m benchmarks.paper.table5 --smollm2 FOLDER --work FOLDER --full

Rows: the dense model; ASVD and LLM-Pruner by their own sizes, and inside the knapsack of GAC-v2
around those; SVD-LLM; gacfx; gacfx, healed. Columns: parameters kept, share of the changed dims
that are multiples of 8, perplexity on the first 20,480 tokens of WikiText-2 test (token form, in
float32, each window of at most 2,048 tokens alone and from its second token on), PIQA and
HellaSwag through lm-eval with standard errors, medians on this CPU beside the dense model in one
run, and forecasts for GPUs, which are rules and nothing measured.

ASVD's own ranks come from its stand-in for losses (stable rank); with ``--full`` from its table of
losses, six passes over 2,048 tokens for every weight. ``--full`` also takes all items of the tasks
that are there, and three seeds of what is random: the sampled labels of gacfx's statistics, and
the order of a healing.

Every row is a checkpoint in the work folder, every cell a file beside it: a run that was killed
goes on. ``--statistics`` takes the work folder of ``benchmarks.pruning --rows ours`` for the same
model, which is not changed but for what is added.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import record
from benchmarks.gpu import tables
from benchmarks.gpu.tables import NONE
from benchmarks.paper import recipes
from benchmarks.paper.cells import CELLS, Settings
from benchmarks.paper.printed import TABLE5, V2
from benchmarks.paper.rows import FAILED, Heals, Table, seconds_of, seeded
from benchmarks.paper.subject import add_arguments, read_subject
from gacfx.zeroshot.harness import check_installed

NAME, RATIO = "paper_table5", "0.15"
SAMPLES, SEEDS = 200, 3
HEADER = (
    *("row", ">kept", ">aligned", ">perplexity", ">PIQA", ">HellaSwag"),
    *(">prefill fp32", ">decode fp32", ">prefill bf16", ">decode bf16"),
    *(">a100 prefill", ">decode", ">h100 prefill", ">decode", ">h200 prefill", ">decode"),
)


def view(rows: Sequence[Mapping[str, Any]]) -> tables.Table:
    """The table; times are how many times as fast as the dense model."""
    return tables.table(HEADER, [line(row) for row in rows])


def line(row: Mapping[str, Any]) -> list[str]:
    """A row of it."""
    name = row["row"] + (f", seed {row['seed']}" if row["seed"] else "")
    if row.get(FAILED):
        return [name, *[NONE] * (len(HEADER) - 1)]
    size, quality = row.get("sizes", {}), row.get("quality", {})
    tasks = row.get("zeroshot", {}).get("tasks", {})
    times, gpus = row.get("latency", {}), row.get("forecast", {})
    return [
        name,
        shown(size.get("kept_share"), ".3f"),
        tables.percent(size.get("aligned")),
        shown(quality.get("perplexity"), ".2f"),
        *(_accuracy(tasks.get(task, {})) for task in ("piqa", "hellaswag")),
        *(
            _ratio(times.get(f"{mode} {dtype}", {}))
            for dtype in ("fp32", "bf16")
            for mode in ("prefill", "decode")
        ),
        *(
            shown(gpus.get(gpu, {}).get(mode, {}).get("times_as_fast"), ".2f")
            for gpu in ("a100", "h100", "h200")
            for mode in ("prefill", "decode")
        ),
    ]


def shown(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return NONE if value is None else format(value, form)


def _accuracy(found: Mapping[str, Any]) -> str:
    if found.get("acc") is None:
        return NONE
    error = found.get("acc_stderr")
    return f"{found['acc']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _ratio(found: Mapping[str, Any]) -> str:
    """``1.13 (1.10–1.15)``; milliseconds for the dense model."""
    ratio = found.get("times_as_fast")
    if ratio is not None:
        return f"{ratio[0]:.2f} ({ratio[1]:.2f}{NONE}{ratio[2]:.2f})"
    return NONE if found.get("ms") is None else f"{found['ms']:.1f} ms"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Table 5 of GAC-v2 on a model that is at hand.")
    add_arguments(made, NAME)
    names = [recipe.name for recipe in recipes.table5()]
    made.add_argument("--ratio", default=RATIO, help=f"share to remove ({RATIO})")
    made.add_argument("--rows", nargs="+", choices=names, help="some of them (all)")
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    made.add_argument("--samples", type=int, default=SAMPLES, help=f"of each task ({SAMPLES})")
    made.add_argument("--full", action="store_true", help="all items, losses of ASVD, three seeds")
    made.add_argument("--seeds", type=int, help="of what is random (1; 3 with --full)")
    made.add_argument("--first", type=int, default=3, help="first layer that LLM-Pruner prunes (3)")
    made.add_argument("--prefill", type=int, default=256, help="tokens of measured prompts (256)")
    made.add_argument("--runs", type=int, default=12, help="rounds of a measurement, at most (12)")
    made.add_argument("--heal-tokens", type=int, default=60_000, help="at most (60,000)")
    made.add_argument("--heal-minutes", type=float, default=10.0, help="at most (10)")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """0: a row that cannot be made is a result."""
    asked = parser().parse_args(given)
    if "zeroshot" in asked.cells:
        check_installed()  # before an hour of work
    settings = Settings(
        samples=None if asked.full else asked.samples, prefill=asked.prefill, runs=asked.runs
    )
    subject = read_subject(asked, "table5")
    all_rows = recipes.table5(asked.first, table=asked.full)
    wanted = asked.rows and [f"{n}-table" if n == "asvd" and asked.full else n for n in asked.rows]
    chosen = recipes.named(all_rows, wanted)
    seeds = asked.seeds or (SEEDS if asked.full else 1)
    heals = Heals(asked.heal_tokens, asked.heal_minutes)
    rows = Table(subject, asked.ratio, settings, heals).run([*seeded(chosen, seeds)], asked.cells)
    print(view(rows).markdown())
    for row in rows:
        if row.get(FAILED):
            print(f"{row['name']}: {row[FAILED]}")
    results = {
        "model": subject.folder.name,
        "ratio": asked.ratio,
        "calibration_tokens": subject.calibration.tokens,
        "evaluation": subject.evaluation(asked.text),
        "seconds": seconds_of(rows),
        "rows": rows,
        "printed": {"what": V2, "rows": {name: row._asdict() for name, row in TABLE5.items()}},
    }
    print(record.write(NAME, results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
