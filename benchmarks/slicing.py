"""What does a smaller hidden size cost? Excess loss over dense, beside plans of as many parameters.

    python -m benchmarks.slicing [--data ../shared/data] [--models babyllama stories260K]

Each model is sliced with the paper's choices, and with gacfx's own, alone and together: directions
by what their loss costs, readers that are refitted. Calibrated on stories 0-47, judged on stories
600-631, of each the first window (256 tokens) only, in steps of 8. Beside them stands one plan of
factors with the parameters that the sliced models have.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gacfx
from benchmarks import record
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus, read_documents, tokenize
from gacfx.core.goal import Goal
from gacfx.core.search import Search
from gacfx.slicing.door import READERS, Readers
from gacfx.slicing.rotation import Rotation

FOLDERS = {"babyllama": "models/babyllama-tok105-1M", "stories260K": "models/stories260K"}
STORIES, CALIBRATION, EVALUATION = "tinystories_stories.jsonl", slice(0, 48), slice(600, 632)
RATIOS = ("0.1", "0.2", "0.3")
WINDOW = 256
SEARCH = Search(align=8, value="two-sided")
CHOICES: tuple[tuple[Rotation, Readers], ...] = (
    ("pca", "rotated"),
    ("two-sided", "rotated"),
    ("pca", "refitted"),
    ("two-sided", "refitted"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One smaller model and its measured loss."""

    model: str
    ratio: str
    way: str
    hidden: int
    """Hidden size; of a plan that of the dense model."""
    params: int
    excess_nats: float
    """Over the dense model, nats per token, on text that nothing else saw."""


def texts(model: Any, tokenizer: Any, data: Path) -> tuple[Corpus, Corpus]:
    """(calibration, evaluation), the first window of each story."""
    stories = list(read_documents(data / "text" / STORIES))
    both = []
    for part in (CALIBRATION, EVALUATION):
        chosen = [tokenize([story], tokenizer, WINDOW) for story in stories[part]]
        both.append(Corpus(tuple(each.documents[0] for each in chosen)))
    return both[0], both[1]


def rows_of(name: str, data: Path) -> list[Row]:
    """Every way at every ratio."""
    model, tokenizer = api.load(data / FOLDERS[name])
    fit, judged = texts(model, tokenizer, data)
    dense = evaluate(model, judged).nats_per_token
    study = api.calibrate(model, tokenizer, calibration=fit)
    rows, profile = [], api.load_profile("h200")
    for ratio in RATIOS:
        for rotation, readers in CHOICES:
            sliced = gacfx.slice_hidden(
                model,
                tokenizer,
                calibration=fit,
                ratio=ratio,
                align=8,
                rotation=rotation,
                readers=readers,
                force=True,
            )
            excess = evaluate(sliced.model, judged).nats_per_token - dense
            way, size = f"{rotation}, {readers}", sliced.size
            rows.append(_shown(Row(name, ratio, way, size.hidden, size.params, excess)))
        made = study.plan(Goal(params=size.params), profile=profile, search=SEARCH)
        excess = study.measure(made, judged) - dense
        rows.append(_shown(Row(name, ratio, "plan", model.config.hidden_size, size.params, excess)))
    study.close()
    return rows


def _shown(row: Row) -> Row:
    print(
        f"{row.model:<12} {row.ratio:<4} {row.way:<20} {row.hidden:>4} {row.params:>9,} "
        f"{row.excess_nats:8.4f}",
        flush=True,
    )
    return row


def main(given: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", nargs="+", choices=list(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    assert READERS[0] == CHOICES[-1][1]
    rows = [row for name in arguments.models for row in rows_of(name, arguments.data)]
    path = record.write("slicing", {"rows": [asdict(row) for row in rows]}, arguments.out)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
