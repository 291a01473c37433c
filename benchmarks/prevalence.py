"""How many irregular ranks do the field's importance proxies make of models that are at hand?

    python -m benchmarks.prevalence [--data ../shared/data] [--models babyllama stories260K]
    python -m benchmarks.prevalence --models babyllama stories260K smollm2 --smollm2 FOLDER

All four proxies at ratios 0.1, 0.2, 0.3 and 0.5, as Table 1 of GAC-v1, which is about Llama-3-8B.
Models and their calibration texts are those of :mod:`benchmarks.quality`, of WikiText-2 the first
16,384 tokens that lie evenly in it; in float32, on one thread. ``gacfx prevalence`` prints the same
of any model.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.quality import CALIBRATION, STORIES, SUBJECTS, WIKI, Subject
from gacfx import api
from gacfx.calibration.text import read_documents, usage
from gacfx.prevalence import prevalence
from gacfx.report.prevalence_view import PRINTED, SOURCE

WIKI_TOKENS = 16_384


def run(subject: Subject, data: Path, folder: Path) -> dict[str, Any]:
    """Calibrate one model and count its ranks; the ranks themselves are left out."""
    model, tokenizer = api.load(folder, dtype=torch.float32)
    if subject.folder:
        texts: list[str] = read_documents(data / "text" / STORIES)[CALIBRATION]
        corpus = api.read_calibration(texts, model, tokenizer, "all")
    else:
        texts = read_documents(data / "text" / WIKI[0])
        corpus = api.read_calibration(texts, model, tokenizer, WIKI_TOKENS)
    start = time.monotonic()
    found = prevalence(model, calibration=corpus, name=subject.name).to_dict()
    for proxy in found["proxies"].values():
        for cell in proxy["ratios"].values():
            del cell["ranks"]
        shares = proxy["irregular"]
        print(subject.name, {step: round(shares[step]["mean"], 3) for step in shares}, flush=True)
    seconds = round(time.monotonic() - start, 1)
    return {**found, "calibration_text": usage(corpus), "seconds": seconds}


def main(given: Sequence[str] | None = None) -> int:
    """Write the results."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Irregular ranks of four importance proxies.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--models", nargs="+", choices=names, default=names[:2])
    parser.add_argument("--out", type=Path, help="of the results (results/prevalence.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for subject in SUBJECTS:
        if subject.name in asked.models:
            folder = asked.data / subject.folder if subject.folder else asked.smollm2
            if folder is None:
                parser.error(f"--models {subject.name}: name its folder with --smollm2")
            results[subject.name] = run(subject, asked.data, folder)
    printed = {proxy: row._asdict() for proxy, row in PRINTED.items()}
    beside = {"what": SOURCE, "proxies": printed}
    print(record.write("prevalence", {"models": results, "printed": beside}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
