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
from collections.abc import Sequence

from benchmarks import record
from benchmarks.paper import recipes, views
from benchmarks.paper.cells import CELLS, Settings
from benchmarks.paper.printed import TABLE5, V2
from benchmarks.paper.rows import Heals, Table, seconds_of, seeded
from benchmarks.paper.subject import add_arguments, read_subject
from benchmarks.paper.views import TASKS
from gacfx.zeroshot.harness import check_installed

NAME, RATIO = "paper_table5", "0.15"
SAMPLES, SEEDS = 200, 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Table 5 of GAC-v2 on a model that is at hand.")
    add_arguments(made, NAME)
    names = [recipe.name for recipe in recipes.table5()]
    made.add_argument("--ratio", default=RATIO, help=f"share to remove ({RATIO})")
    made.add_argument("--rows", nargs="+", choices=names, help="some of them (all)")
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    made.add_argument("--samples", type=int, default=SAMPLES, help=f"of each task ({SAMPLES})")
    made.add_argument("--tasks", nargs="+", default=[*TASKS], help=f"({' '.join(TASKS)})")
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
        tasks=tuple(asked.tasks),
        samples=None if asked.full else asked.samples,
        prefill=asked.prefill,
        runs=asked.runs,
    )
    subject = read_subject(asked, "table5")
    all_rows = recipes.table5(asked.first, table=asked.full)
    wanted = asked.rows and [f"{n}-table" if n == "asvd" and asked.full else n for n in asked.rows]
    chosen = recipes.named(all_rows, wanted)
    seeds = asked.seeds or (SEEDS if asked.full else 1)
    heals = Heals(asked.heal_tokens, asked.heal_minutes)
    rows = Table(subject, asked.ratio, settings, heals).run([*seeded(chosen, seeds)], asked.cells)
    for each in (views.quality5(rows), views.times5(rows), views.forecasts5(rows)):
        print(each.markdown())
    print("\n".join(views.failures(rows)))
    results = {
        "model": subject.folder.name,
        "ratio": asked.ratio,
        "asvd": all_rows[1].method,
        "first": asked.first,
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
