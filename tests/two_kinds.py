"""Two kinds of text in different letters, and a tiny Llama to which they are different."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gacfx.calibration.text import Corpus, tokenize
from tests import tiny

LETTERS = {"low": "abcdefghijkl", "num": "0123456789+-"}
"""Kind of text -> what its words are made of."""
PROMPT = 32
"""Tokens by which the kinds are told apart here."""
SIZE = 95
"""Characters of a document: with <s> as many tokens as the model has positions."""


def texts(kind: str, count: int = 20, seed: int = 0, size: int = SIZE) -> list[str]:
    """Documents of words that are the same ones for each seed, in another order."""
    letters = random.Random(kind)
    words = ["".join(letters.choices(LETTERS[kind], k=letters.randint(2, 6))) for _ in range(12)]
    order = random.Random(f"{kind} {seed}")
    long = [" ".join(order.choices(words, k=size))[:size] for _ in range(count)]
    return [text.rstrip().ljust(size, words[0][0]) for text in long]


def corpus(kind: str, count: int = 20, seed: int = 0, size: int = SIZE) -> Corpus:
    """The same as windows."""
    return tokenize(texts(kind, count, seed, size), tiny.tokenizer(), SIZE + 1)


def text_file(path: Path, documents: Sequence[str]) -> Path:
    """The documents as a .txt file."""
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def model(seed: int = 0, **settings: Any) -> Any:
    """A random Llama whose layers do so much that leaving ranks out is seen in its losses."""
    made = tiny.llama(seed=seed, **{"hidden": 32, "width": 48, "layers": 1, **settings})
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() == 2:
                weight *= 20 if "embed" in name else 6
    return made


def checkpoint(folder: Path, **settings: Any) -> Path:
    """The model and its tokenizer, saved as safetensors."""
    model(**settings).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
