"""A tiny model as the subject of a table."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.subject import Subject
from gacfx.calibration.text import Corpus
from gacfx.work import model_digest
from tests import tiny, two_kinds


def subject(root: Path, part: str = "rows") -> Subject:
    """A random Llama of two layers and text of made-up words."""
    torch.set_num_threads(1)
    folder = two_kinds.checkpoint(root / "dense", layers=2, hidden=64, width=96)
    return read(root, folder, part)


def read(root: Path, folder: Path, part: str = "rows") -> Subject:
    """The same once its folder is there."""
    model: Any = two_kinds.model(layers=2, hidden=64, width=96)
    return Subject(
        folder=folder,
        model=model,
        tokenizer=tiny.tokenizer(),
        calibration=corpus(),
        judge=corpus(8, seed=5),
        work=root / part,
        statistics=root / "statistics",
        data=root / "data",
        digest=model_digest(model),
    )


def corpus(count: int = 24, seed: int = 0) -> Corpus:
    """Windows of 96 tokens."""
    return two_kinds.corpus("low", count, seed)
