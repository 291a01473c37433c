"""Table 3 of GAC-v1 on a model that is at hand: size, alignment, forecast and quality at 20 %.

    python -m benchmarks.paper.table3 --smollm2 FOLDER --work FOLDER [--statistics FOLDER]

The dense model; ASVD and LLM-Pruner by their own sizes, and inside the knapsack around those. As in
the paper times are forecasts for an A100, batch 1, 512 tokens: here from rules, nothing measured.
Perplexity is that of :mod:`benchmarks.paper.table5`; zero-shot is the plain mean over the tasks
that come with gacfx (PIQA, HellaSwag, ARC easy and challenge), 200 items of each. Rows are kept in
the work folder, and a run that was killed goes on; statistics are those of table 5.
"""

import argparse
from collections.abc import Sequence

from benchmarks import record
from benchmarks.paper import recipes, views
from benchmarks.paper.cells import CELLS, Settings
from benchmarks.paper.printed import TABLE3, V1
from benchmarks.paper.rows import Heals, Table, seconds_of, seeded
from benchmarks.paper.subject import add_arguments, read_subject
from gacfx.zeroshot.harness import check_installed

NAME, RATIO, GPU, TOKENS = "paper_table3", "0.2", "a100", 512
TASKS = ("piqa", "hellaswag", "arc_easy", "arc_challenge")
MEASURED = tuple(cell for cell in CELLS if cell != "latency")


def main(given: Sequence[str] | None = None) -> int:
    """0: a row that cannot be made is a result."""
    parser = argparse.ArgumentParser(description="Table 3 of GAC-v1 on a model that is at hand.")
    add_arguments(parser, NAME)
    names = [recipe.name for recipe in recipes.table3()]
    parser.add_argument("--ratio", default=RATIO, help=f"share to remove ({RATIO})")
    parser.add_argument("--rows", nargs="+", choices=names, help="some of them (all)")
    parser.add_argument("--cells", nargs="+", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--samples", type=int, default=200, help="of each task (200)")
    parser.add_argument("--first", type=int, default=3, help="first layer that is pruned (3)")
    asked = parser.parse_args(given)
    if "zeroshot" in asked.cells:
        check_installed()  # before an hour of work
    settings = Settings(tasks=TASKS, samples=asked.samples, gpus=(GPU,), forecast=TOKENS)
    subject = read_subject(asked, "table3")
    chosen = recipes.named(recipes.table3(asked.first), asked.rows)
    rows = Table(subject, asked.ratio, settings, Heals()).run([*seeded(chosen, 1)], asked.cells)
    print(views.table3(rows).markdown())
    print("\n".join(views.failures(rows)))
    results = {
        "model": subject.folder.name,
        "ratio": asked.ratio,
        "calibration_tokens": subject.calibration.tokens,
        "evaluation": subject.evaluation(asked.text),
        "seconds": seconds_of(rows),
        "rows": rows,
        "printed": {"what": V1, "rows": {name: row._asdict() for name, row in TABLE3.items()}},
    }
    print(record.write(NAME, results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
