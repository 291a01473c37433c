"""Text for calibration and evaluation: file -> documents -> token ids -> two parts.

A document is scored alone and from its first position, as the model was trained to read it; what
does not fit into the model's positions is cut off, not carried into another window.
"""

# T tokens of one document

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gacfx.errors import CalibrationError

MIN_TOKENS = 33
"""Shorter documents say more about beginnings of texts than about the language."""

DEFAULT_WINDOW = 2048
"""Window of the papers (algorithms of ASVD, SVD-LLM); longer ones cost memory in the backward."""

_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


class Tokenizer(Protocol):
    """What a Hugging Face tokenizer does with one text."""

    def __call__(self, text: str) -> Mapping[str, Any]:
        """A mapping whose ``input_ids`` are the token ids of ``text``, a list of integers."""
        ...


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenised documents."""

    documents: tuple[Tensor, ...]
    """Token ids, each int64 [T] with T >= 33."""
    skipped: int = 0
    """Documents that were too short."""

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return sum(len(ids_T) for ids_T in self.documents)

    @cached_property
    def digest(self) -> str:
        """sha256 over the token ids of all documents, in their order."""
        return hashlib.sha256(b"".join(map(document_digest, self.documents))).hexdigest()


def document_digest(ids_T: Tensor) -> bytes:
    """sha256 over the token ids of one document."""
    return hashlib.sha256(ids_T.cpu().numpy().astype("<i8").tobytes()).digest()


def read_documents(path: str | Path) -> list[str]:
    """Texts of a file, in its order: ``.jsonl`` or ``.txt``, UTF-8.

    In ``.jsonl`` each line is one document, a string or an object ``{"text": ...}``; in ``.txt``
    documents are separated by blank lines.

    Raises:
        CalibrationError: missing file, unknown suffix, bad UTF-8, a line that is not such JSON,
            no text at all.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".txt": _paragraphs}
    if path.suffix.lower() not in readers:
        raise CalibrationError(
            f"{path}: unknown suffix {path.suffix!r}; give .jsonl (one document per line, a string "
            'or {"text": ...}) or .txt (documents separated by blank lines)'
        )
    documents = readers[path.suffix.lower()](_read(path), path)
    if not documents:
        raise CalibrationError(f"{path}: holds no text; give a file with some documents")
    return documents


def _read(path: Path) -> str:
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file; give the path of a .jsonl or .txt file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path}: not UTF-8 at byte {error.start}; convert the file, for example with iconv"
        ) from error


def _paragraphs(text: str, _path: Path) -> list[str]:
    return [part.strip() for part in _BLANK_LINES.split(text) if part.strip()]


def _json_lines(text: str, path: Path) -> list[str]:
    # Not splitlines: a JSON string may hold a raw U+2028, which is no line end of the file.
    lines = enumerate(text.split("\n"), start=1)
    documents = [_json_document(line, f"{path}:{n}") for n, line in lines if line.strip()]
    return [document for document in documents if document.strip()]


def _json_document(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise CalibrationError(f"{where}: not JSON ({error}); mend or remove the line") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise CalibrationError(
            f'{where}: expected a string or {{"text": "..."}}, found {line.strip()[:60]!r}'
        )
    return text


def tokenize(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    max_positions: int,
    limit_tokens: int | None = None,
) -> Corpus:
    """Token ids of each document alone, with the special tokens that the tokenizer adds.

    Args:
        documents: texts; read only as far as ``limit_tokens`` asks for.
        tokenizer: Hugging Face tokenizer of the model.
        max_positions: longest document in tokens; the rest of a longer one is cut off.
        limit_tokens: most tokens altogether; the last document is cut to fit, or left out when
            fewer than 33 of its tokens would fit.

    Raises:
        CalibrationError: no document has 33 tokens within these limits.
    """
    kept: list[Tensor] = []
    skipped, longest = 0, 0
    room = limit_tokens
    for text in documents:
        ids = tokenizer(text)["input_ids"][:max_positions]
        longest = max(longest, len(ids))
        if len(ids) < MIN_TOKENS:
            skipped += 1
            continue
        ids = ids[:room]
        if len(ids) >= MIN_TOKENS:
            kept.append(torch.tensor(ids, dtype=torch.int64))
        if room is not None:
            room -= len(ids)
            if room < MIN_TOKENS:
                break
    if not kept:
        raise CalibrationError(
            f"no document has {MIN_TOKENS} tokens within the limits (longest {longest}, positions "
            f"{max_positions}, token limit {limit_tokens}); give longer texts or raise the limits"
        )
    return Corpus(tuple(kept), skipped)


def split(corpus: Corpus, held_back: float = 0.25) -> tuple[Corpus, Corpus]:
    """(calibration part, held-back part): every k-th document is held back, order kept.

    Args:
        corpus: at least two documents.
        held_back: share of the documents in the second part, 0..1; each part gets at least one.

    Raises:
        CalibrationError: fewer than two documents, or a share outside 0..1.
    """
    count = len(corpus.documents)
    if count < 2:
        raise CalibrationError(
            f"{count} document of {MIN_TOKENS} tokens cannot be split into calibration and "
            "held-back text; give at least two"
        )
    if not 0 < held_back < 1:
        raise CalibrationError(f"held_back={held_back} is not a share between 0 and 1")
    held = min(max(round(count * held_back), 1), count - 1)
    marks = [(i + 1) * held // count > i * held // count for i in range(count)]
    pairs = list(zip(corpus.documents, marks, strict=True))
    return (
        Corpus(tuple(ids_T for ids_T, mark in pairs if not mark), corpus.skipped),
        Corpus(tuple(ids_T for ids_T, mark in pairs if mark)),
    )


def max_positions(model: nn.Module, most: int = DEFAULT_WINDOW) -> int:
    """Longest document for a Hugging Face model: its positions, at most ``most`` tokens."""
    config = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    found = (getattr(config, field, None) for field in _POSITION_FIELDS)
    return min([most, *(value for value in found if isinstance(value, int) and value > 0)])


def check_fits(model: nn.Module, corpus: Corpus) -> None:
    """Nothing when the model can read every document.

    Raises:
        CalibrationError: an empty corpus, a token id without a row in the embedding, or a document
            longer than the model's positions.
    """
    if not corpus.documents:
        raise CalibrationError("the corpus has no document; give some text")
    low = min(int(ids_T.min()) for ids_T in corpus.documents)
    high = max(int(ids_T.max()) for ids_T in corpus.documents)
    rows = embedding_rows(model)
    if low < 0 or (rows is not None and high >= rows):
        raise CalibrationError(
            f"token ids {low} .. {high} are outside the model's vocabulary of {rows}; tokenise the "
            "text with the tokenizer of this model"
        )
    longest = max(len(ids_T) for ids_T in corpus.documents)
    if longest > max_positions(model, most=longest):
        raise CalibrationError(
            f"a document has {longest} tokens, the model {max_positions(model, most=longest)} "
            "positions; tokenise with max_positions(model)"
        )


def embedding_rows(model: nn.Module) -> int | None:
    """Rows of the input embedding; None for a module that does not tell."""
    getter = getattr(model, "get_input_embeddings", None)
    weight = getattr(getter() if callable(getter) else None, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else None
