"""What does healing bring? Excess loss over dense before and after, on text that nothing else saw.

    python -m benchmarks.heal [--data ../shared/data] [--tokens 60k] [--seeds 3]
    python -m benchmarks.heal --models smollm2 --smollm2 FOLDER --out results/FILE.json

Each model is compressed and healed on one text and judged on another, those of benchmarks.quality:
for babyllama stories 0-199, and stories 600-759 (the first window of each, and all). Plans have
steps of 8, pairs alone or every form. Seeds mix the order of the text.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import gacfx
from benchmarks import quality, record
from gacfx import api
from gacfx.calibration.batches import Reads
from gacfx.calibration.evaluate import evaluate
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.search import Form, Search
from gacfx.errors import NotHealed
from gacfx.healing.divergence import judge
from gacfx.healing.door import Healed
from gacfx.study import Study

RATIOS = {"babyllama": ("0.2", "0.3", "0.4"), "smollm2": ("0.2", "0.3")}
FORMS: tuple[Form, ...] = ("pair", "auto")


@dataclass(frozen=True, slots=True)
class Row:
    """One healing."""

    model: str
    ratio: str
    form: str
    seed: int
    before_nats: tuple[float, ...]
    """Excess over dense, nats per token, on each judging text."""
    after_nats: tuple[float, ...]
    """The same when healed; as before where nothing came out better."""
    healed: bool
    kl: tuple[float, float]
    """To the dense model on the first judging text, before and after."""
    held_kl: tuple[float, float] | None
    """The same on held-back text of the calibration, which decides what is kept."""
    rate: float | None
    tokens: int | None
    steps: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A model and a ratio: what one process does."""

    subject: quality.Subject
    folder: Path
    ratio: str
    asked: argparse.Namespace


def rows_of(cell: Cell) -> list[Row]:
    """All forms and seeds of one cell."""
    subject, folder, asked, ratio = cell.subject, cell.folder, cell.asked, cell.ratio
    if subject.name == "babyllama":
        torch.set_num_threads(1)
    model, tokenizer = api.load(folder, dtype=torch.float32)
    texts = quality.texts_of(subject, asked.data, model, tokenizer)
    study, profile, rows = Study.make(model, texts.calibration), api.load_profile("h200"), []
    for form in FORMS:
        search = Search(form=form, value=subject.value, align=8)
        planned = study.plan(ratio, profile=profile, search=search)
        small = api.apply(model, planned)
        before, kl = excess(small, texts), kl_of(model, small, texts)
        with tempfile.TemporaryDirectory() as place:
            out = save_checkpoint(
                small, tokenizer, Path(place) / "small", plan=planned.plan,
                factors=planned.factors,
            )  # fmt: skip
            for seed in range(asked.seeds):
                healed = heal(out, folder, texts, seed, asked)
                after = kl if healed is None else kl_of(model, healed.model, texts)
                names, kls = (subject.name, ratio, form), (kl, after)
                row = row_of(names, seed, before, kls, healed, texts)
                rows.append(row)
                print(row, flush=True)
    return rows


def heal(
    small: Path, dense: Path, texts: quality.Texts, seed: int, asked: argparse.Namespace
) -> Healed | None:
    """The healed model; None where nothing came out better."""
    try:
        return gacfx.heal(
            small,
            against=dense,
            calibration=texts.calibration,
            tokens=asked.tokens,
            minutes=asked.minutes,
            seed=seed,
        )
    except NotHealed:
        return None


def row_of(
    names: tuple[str, str, str],
    seed: int,
    before: tuple[float, ...],
    kls: tuple[float, float],
    healed: Healed | None,
    texts: quality.Texts,
) -> Row:
    """What came of it."""
    if healed is None:
        return Row(*names, seed, before, before, False, kls, None, None, None, None, None)
    said = healed.healing
    return Row(
        *names,
        seed,
        before,
        excess(healed.model, texts),
        True,
        kls,
        (round(said["before"]["kl"], 6), round(said["after"]["kl"], 6)),
        said["rate"],
        said["tokens"],
        said["steps"],
        round(healed.seconds, 1),
    )


def excess(model: Any, texts: quality.Texts) -> tuple[float, ...]:
    """Rise of the loss over the dense model on each judging text, nats per token."""
    return tuple(
        round(evaluate(model, judge).checked().nats_per_token - dense, 6)
        for judge, dense in zip(texts.judges, texts.dense, strict=True)
    )


def kl_of(dense: Any, model: Any, texts: quality.Texts) -> float:
    """KL(dense || model) on the first judging text, nats per token."""
    return round(judge(dense, model, texts.judges[0], Reads.PADDED).kl, 6)


def means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean over the seeds, and the largest and the least."""
    found = []
    for key in dict.fromkeys((row.model, row.ratio, row.form) for row in rows):
        same = [row for row in rows if (row.model, row.ratio, row.form) == key]
        after = [row.after_nats[0] for row in same]
        found.append(
            {
                **dict(zip(("model", "ratio", "form"), key, strict=True)),
                "before_nats": same[0].before_nats[0],
                "after_nats": round(statistics.mean(after), 6),
                "before_kl": same[0].kl[0],
                "after_kl": round(statistics.mean(row.kl[1] for row in same), 6),
                "least_nats": min(after),
                "most_nats": max(after),
                "kl_never_worse": all(row.kl[1] <= row.kl[0] for row in same),
            }
        )
    return found


def main(given: Sequence[str] | None = None) -> int:
    """0 when no healing took a model further from the dense one on unseen text, else 1."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Excess loss before and after healing.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    parser.add_argument("--models", nargs="+", choices=[*RATIOS], default=["babyllama"])
    parser.add_argument("--ratios", nargs="+", help="shares to remove (default: of each model)")
    parser.add_argument("--tokens", default="60k", help="of each healing, at most (60k)")
    parser.add_argument("--minutes", type=float, default=30.0, help="the same (30)")
    parser.add_argument("--seeds", type=int, default=3, help="orders of the text (3)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, a ratio each (1)")
    parser.add_argument("--out", type=Path, help="of the results (default: results/heal.json)")
    asked = parser.parse_args(given)
    busy, cells = record.others(), list[Cell]()
    for subject in quality.SUBJECTS:
        if subject.name in asked.models:
            folder = asked.data / subject.folder if subject.folder else asked.smollm2
            if folder is None:
                parser.error(f"--models {subject.name}: name its folder with --smollm2")
            ratios = asked.ratios or RATIOS[subject.name]
            cells += [Cell(subject, folder, ratio, asked) for ratio in ratios]
    if asked.jobs == 1:
        rows = [row for cell in cells for row in rows_of(cell)]
    else:
        with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
            rows = [row for found in pool.map(rows_of, cells) for row in found]
    found = means(rows)
    for each in found:
        print(each)
    results = {**busy, "means": found, "rows": [asdict(row) for row in rows]}
    print(record.write("heal", results, asked.out))
    return 0 if all(each["kl_never_worse"] for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
