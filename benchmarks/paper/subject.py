"""The model of a table: its texts, its statistics, and where everything is kept.

Texts are those of :mod:`benchmarks.quality`: calibrated on 51,200 tokens from all over WikiText-2
valid and judged on the first 20,480 of test, or on TinyStories; so a folder of statistics that
``benchmarks.pruning --work`` made for the same model is taken as it is.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import quality
from gacfx import api
from gacfx.calibration.text import Corpus, max_positions, read_documents
from gacfx.errors import CheckpointError
from gacfx.study import Study
from gacfx.work import model_digest

TEXTS = ("wikitext", "stories")


@dataclass(frozen=True, eq=False)
class Subject:
    """A dense model in float32 and its texts."""

    folder: Path
    model: Any
    tokenizer: Any
    calibration: Corpus
    judge: Corpus
    work: Path
    """Folder of the rows."""
    statistics: Path
    """Work folder of statistics; those of another seed lie beside it."""
    data: Path
    """Folder of texts and of zero-shot tasks."""
    digest: str
    """Of the model."""

    @property
    def window(self) -> int:
        """Longest window of the judging text, tokens; windows do not overlap."""
        return max_positions(self.model)

    def evaluation(self, text: str) -> dict[str, Any]:
        """What the judging text is, for results."""
        windows = {"window": self.window, "stride": self.window, "dtype": "fp32"}
        return {"text": text, "tokens": self.judge.tokens, **windows}

    def seq(self, asked: int) -> int:
        """Tokens that a measurement reads, with a place left for one that is decoded."""
        return min(asked, max_positions(self.model, most=asked + 1) - 1)

    @contextmanager
    def study(self, method: str, seed: int = 0) -> Iterator[Study]:
        """The calibrated model, statistics for pruning among them; gathered once for each seed."""
        folder = self.statistics
        if seed:
            folder = folder.with_name(f"{folder.name}-seed{seed}")
        study = api.calibrate(
            self.model,
            calibration=self.calibration,
            structures=True,
            method=method,
            seed=seed,
            work=folder,
        )
        with closing(study):
            yield study


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What all tables of a model ask for."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[2] / "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of texts and tasks")
    parser.add_argument(
        "--smollm2", "--model", dest="model", type=Path, required=True, metavar="FOLDER",
        help="the dense model: SmolLM2-135M, or any other",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, help="folder of the rows: resumes")
    parser.add_argument("--statistics", type=Path, help="work folder (WORK/statistics)")
    parser.add_argument("--text", choices=TEXTS, default=TEXTS[0], help="WikiText-2, or stories")
    parser.add_argument("--calibration-tokens", type=int, default=quality.WIKI_TOKENS[0])
    parser.add_argument("--judge-tokens", type=int, default=quality.WIKI_TOKENS[1])
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own)")
    parser.add_argument("--out", type=Path, help=f"of the results (default: results/{name}.json)")


def read_subject(asked: argparse.Namespace, part: str) -> Subject:
    """The model and the texts that were asked for, with rows in a ``part`` of the work folder.

    Raises:
        GacError: a model or a text that cannot be read.
    """
    if not asked.data.is_dir():
        raise CheckpointError(
            f"{asked.data}: there is no such folder; name that of the texts with --data"
        )
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    model, tokenizer = api.load(asked.model, dtype=torch.float32)
    calibration, judge = texts_of(asked, model, tokenizer)
    return Subject(
        folder=asked.model,
        model=model,
        tokenizer=tokenizer,
        calibration=calibration,
        judge=judge,
        work=asked.work / part,
        statistics=asked.statistics or asked.work / "statistics",
        data=asked.data,
        digest=model_digest(model),
    )


def texts_of(asked: argparse.Namespace, model: Any, tokenizer: Any) -> tuple[Corpus, Corpus]:
    """(calibration text, judging text)."""
    folder, tokens = asked.data / "text", asked.calibration_tokens
    if asked.text == "stories":
        stories = read_documents(folder / quality.STORIES)
        judged = iter(stories[quality.EVALUATION])
        calibrated = stories[quality.CALIBRATION]
    else:
        calibrated, test = (read_documents(folder / name) for name in quality.WIKI)
        judged = iter(test)  # the beginning of the text, as an iterator is read
    return (
        api.read_calibration(calibrated, model, tokenizer, tokens),
        api.read_calibration(judged, model, tokenizer, asked.judge_tokens),
    )
