"""A tiny model as the subject of a table."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.subject import Subject
from gacfx.calibration.text import Corpus
from gacfx.work import model_digest
from tests import tiny, two_kinds


def subject(root: Path, part: str = "rows") -> Subject:
    """A Llama of two layers that knows made-up words, and text of them."""
    torch.set_num_threads(1)
    model = trained()
    model.save_pretrained(root / "dense")
    tiny.tokenizer().save_pretrained(root / "dense")
    return Subject(
        folder=root / "dense",
        model=model,
        tokenizer=tiny.tokenizer(),
        calibration=corpus(),
        judge=corpus(8, seed=5),
        work=root / part,
        statistics=root / "statistics",
        data=root / "data",
        digest=model_digest(model),
    )


@cache
def trained(steps: int = 80) -> Any:
    """The model, after a second of training."""
    model = tiny.llama(hidden=32, width=48)
    ids_BT = torch.stack(corpus(40, seed=9).documents)
    rule = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        part_bT = ids_BT[step % 5 :: 5]
        model(input_ids=part_bT, labels=part_bT).loss.backward()
        rule.step()
        rule.zero_grad()
    return model.eval().requires_grad_(False)


def corpus(count: int = 24, seed: int = 0) -> Corpus:
    """Windows of 96 tokens."""
    return two_kinds.corpus("low", count, seed)
