"""What do value models promise, and what do their plans cost?

    python -m benchmarks.values [--data ../shared/data] [--models babyllama stories260K]
    python -m benchmarks.values --models smollm2 --smollm2 FOLDER --work FOLDER --out FILE.json

Plans of pairs, and of pairs and pivots, in steps of 8, by each value model in nats. What was
promised, and the excess loss over dense, nats per token, on the unseen texts of benchmarks.quality.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import quality, record
from benchmarks.paper.kept import Found
from gacfx import api
from gacfx.compressors.values import TRIED, VALUES
from gacfx.core.search import Form, Search
from gacfx.study import Study

RATIOS = ("0.1", "0.2", "0.3", "0.4")
FORMS: tuple[Form, ...] = ("pair", "auto")
NAMES = tuple(name for name in TRIED if VALUES.find(name).in_nats)


def rows(
    study: Study, texts: quality.Texts, asked: argparse.Namespace, name: str
) -> Iterator[Found]:
    """Every form, ratio and value model."""
    profile = api.load_profile("h200")
    for form in asked.forms:
        for ratio in asked.ratios:
            for value in NAMES:
                search = Search(form=form, value=value, align=8)
                made = study.plan(ratio, profile=profile, search=search)
                found: Found = {
                    "model": name,
                    "form": form,
                    "ratio": ratio,
                    "value": value,
                    "promised_nats": round(made.plan.loss_nats, 6),
                    "excess_nats": excess(study, made, texts),
                }
                excesses = "  ".join(f"{nats:.4f}" for nats in found["excess_nats"])
                print(
                    f"{name:12}{form:6}{ratio:6}{value:11}{found['promised_nats']:.4f}  {excesses}",
                    flush=True,
                )
                yield found


def excess(study: Study, made: Any, texts: quality.Texts) -> list[float]:
    """Rise of the loss over the dense model on each judging text, nats per token."""
    pairs = zip(texts.judges, texts.dense, strict=True)
    return [round(study.measure(made, judge) - dense, 6) for judge, dense in pairs]


def main(given: Sequence[str] | None = None) -> int:
    """0: nothing here is a goal."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Value models: promised and measured losses.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    names = [subject.name for subject in quality.SUBJECTS]
    parser.add_argument("--models", nargs="+", choices=names, default=names[:2])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--ratios", nargs="+", default=RATIOS)
    parser.add_argument("--work", type=Path, help="work folder of the statistics of one model")
    parser.add_argument("--out", type=Path, help="of the results (default: results/values.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    results: list[Found] = []
    for subject in quality.SUBJECTS:
        if subject.name in asked.models:
            folder = asked.data / subject.folder if subject.folder else asked.smollm2
            if folder is None:
                parser.error(f"--models {subject.name}: name its folder with --smollm2")
            model, tokenizer = api.load(folder, dtype=torch.float32)
            texts = quality.texts_of(subject, asked.data, model, tokenizer)
            study = api.calibrate(
                model, calibration=texts.calibration, structures=asked.work is not None,
                work=asked.work,
            )  # fmt: skip
            results += rows(study, texts, asked, subject.name)
    print(record.write("values", {"rows": results}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
