"""Domains of text in windows: a prompt and what follows it, in parts that no seed mixes up.

Every domain has :data:`PARTS` parts to fit bases and routers and to hold back, and
:data:`SEEDS` sets of windows to test on. Seed s holds back part s, fits on the others, and tests on
set s, so that three seeds need one calibration.
"""

# P windows, T tokens

import json
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gacfx.calibration.text import Corpus

PARTS = 4
SEEDS = 3
TOKENS = 192
"""Of a window."""
PROMPT = 96
"""Tokens of the prompt; the others follow it."""
MODULES = ("argparse", "ast", "collections/__init__", "dataclasses", "datetime", "difflib")
MORE_MODULES = ("email/message", "functools", "inspect", "logging/__init__", "pathlib", "tarfile")


@dataclass(frozen=True, eq=False)
class Domain:
    """Windows of one kind of text."""

    name: str
    parts: tuple[Tensor, ...]
    """[P, T] of each part."""
    tests: tuple[Tensor, ...]
    """[P, T] of each seed."""

    def fit(self, seed: int) -> Tensor:
        """Windows that a seed may learn from, [P, T]."""
        return torch.cat([part for at, part in enumerate(self.parts) if at != seed % PARTS])

    def held(self, seed: int) -> Tensor:
        """Windows that it is charged on, [P, T]."""
        return self.parts[seed % PARTS]


def corpus(windows_PT: Tensor) -> Corpus:
    """Windows as calibration takes them."""
    return Corpus(tuple(windows_PT))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _code(_: Path) -> str:
    library = Path(sysconfig.get_path("stdlib"))
    files = [library / f"{name}.py" for name in (*MODULES, *MORE_MODULES)]
    return "\n\n".join(_text(file) for file in files if file.is_file())


def _math(data: Path) -> str:
    lines = _text(data / "zeroshot" / "math_qa.jsonl").splitlines()
    return "\n\n".join(_problem(json.loads(line)) for line in lines)


def _problem(row: Mapping[str, object]) -> str:
    said = " ".join(str(found) for found in row.values() if isinstance(found, str))
    return said.strip()


SOURCES: dict[str, Callable[[Path], str]] = {
    "stories": lambda data: _text(data / "text" / "tinystories_val.txt"),
    "shakespeare": lambda data: _text(data / "text" / "tinyshakespeare.txt"),
    "wikitext": lambda data: _text(data / "text" / "wikitext2_valid_tokens.txt"),
    "code": _code,
    "math": _math,
}
"""Domain -> its text; code is the standard library of the Python that runs."""


def domains(
    data: Path,
    tokenizer: Any,
    names: tuple[str, ...],
    *,
    windows: int,
    tests: int,
    first: int,
) -> Iterator[Domain]:
    """The domains, each cut into windows that begin with the token ``first``.

    Args:
        data: folder of the texts.
        tokenizer: of the model.
        names: of :data:`SOURCES`.
        windows: of each part.
        tests: of each set of test windows.
        first: id of the token that begins a text.
    """
    count = PARTS * windows + SEEDS * tests
    for name in names:
        text = SOURCES[name](data)[: count * TOKENS * 8]
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        rows = len(ids) // (TOKENS - 1)
        if rows < count:
            raise ValueError(f"{name}: {rows} windows, {count} are asked for")
        cut = ids[: rows * (TOKENS - 1)].view(rows, TOKENS - 1)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:count]
        all_PT = torch.cat([torch.full((count, 1), first), cut[order]], 1)
        fit_PT, test_PT = all_PT.split((PARTS * windows, SEEDS * tests))
        yield Domain(name, fit_PT.split(windows), test_PT.split(tests))
