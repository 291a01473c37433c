"""The checkpoints of a comparison and their text, looked at before any model is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gacfx.calibration.sliding import Slides, check_windows, read_slides
from gacfx.calibration.text import DEFAULT_WINDOW, read_documents, token_limit
from gacfx.checkpoint.load import load_tokenizer, stored_bytes
from gacfx.core.model_class import config_positions, text_config
from gacfx.errors import CalibrationError, CheckpointError
from gacfx.tracing.skeleton import read_config


@dataclass(frozen=True, slots=True)
class Text:
    """The text that every model reads, and how it is cut."""

    file: str | Path
    """A .jsonl or .txt file."""
    window: int | None = None
    """Most tokens of a window; None: the fewest positions of the models, at most 2048."""
    stride: int | None = None
    """Tokens from one window to the next; None: a whole window, so that none overlap."""
    tokens: int | str | None = None
    """Most tokens of the text: a number, or text such as ``500k``; None takes all."""


@dataclass(frozen=True, eq=False)
class Side:
    """One checkpoint, of which no weight is read yet."""

    name: str
    source: str
    nbytes: int | None
    """Of its weight files; None for a name of the hub."""
    compressed: bool
    positions: int | None
    vocabulary: int | None
    tokenizer: Any
    """None where a folder has none."""


def read_sides(sources: Sequence[str | Path]) -> tuple[Side, ...]:
    """What is known of checkpoints without their weights.

    Raises:
        CheckpointError: one named twice, a folder that is missing or not whole.
    """
    texts = [str(source) for source in sources]
    places = [_place(text) for text in texts]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise CheckpointError(f"{texts[index]}: named twice; leave one out")
    nbytes = [stored_bytes(text) for text in texts]  # all of them, before anything takes long
    named = zip(_names(texts), texts, nbytes, strict=True)
    return tuple(_side(name, text, size) for name, text, size in named)


def _place(source: str) -> str:
    """What tells two checkpoints apart: where a folder lies, or the name in the hub."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _names(sources: Sequence[str]) -> list[str]:
    """The folders' own names, with as much of their path as tells them apart."""
    paths = [Path(source).resolve() if Path(source).exists() else None for source in sources]
    short = [
        source if path is None else path.name for source, path in zip(sources, paths, strict=True)
    ]
    return [
        name if short.count(name) == 1 else source
        for name, source in zip(short, sources, strict=True)
    ]


def _side(name: str, source: str, nbytes: int | None) -> Side:
    config = read_config(source)
    return Side(
        name=name,
        source=source,
        nbytes=nbytes,
        compressed=getattr(config, "quantization_config", None) is not None,
        positions=config_positions(config),
        vocabulary=getattr(text_config(config), "vocab_size", None),
        tokenizer=load_tokenizer(source),
    )


def read_texts(sides: Sequence[Side], text: Text) -> tuple[Slides, ...]:
    """The text in windows, by the tokenizer of each side; all of one length and stride.

    Raises:
        CalibrationError: the text cannot be read, windows do not fit a model, or a number of tokens
            is asked for and the tokenizers would stop at different places of the text.
        CheckpointError: a folder without a tokenizer.
    """
    documents = read_documents(text.file)
    for side in sides:
        if side.tokenizer is None:
            raise CheckpointError(
                f"{side.source}: has no tokenizer to read the text with; copy its files"
            )
    known = [side.positions for side in sides if side.positions is not None]
    window = text.window or min([DEFAULT_WINDOW, *known])
    stride = text.stride or window
    for side in sides:
        check_windows(window, stride, side.positions, side.name)
    limit = None if text.tokens is None else token_limit(text.tokens, window)
    found = tuple(read_slides(documents, side.tokenizer, window, stride, limit) for side in sides)
    apart = [side.name for side, one in zip(sides, found, strict=True) if not same(one, found[0])]
    if apart and limit is not None:
        raise CalibrationError(
            f"tokens {text.tokens}: {', '.join(apart)} cut the text into other tokens than "
            f"{sides[0].name} and would read another part of it; leave it out and give a shorter "
            "text"
        )
    return found


def same(one: Slides, other: Slides) -> bool:
    """They are the same windows of the same tokens."""
    return one.scored == other.scored and one.corpus.digest == other.corpus.digest


def predicted_bytes(slides: Slides, tokenizer: Any) -> int:
    """Bytes in UTF-8 of the tokens that are predicted; at least 1.

    A character whose tokens two windows share, or a blank that a tokenizer takes from the beginning
    of what it decodes, is off by its few bytes in each window.
    """
    pieces = (
        ids_T[len(ids_T) - count :]
        for ids_T, count in zip(slides.corpus.documents, slides.scored, strict=True)
    )
    texts = (
        tokenizer.decode(
            piece_T.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        for piece_T in pieces
    )
    return max(sum(len(text.encode("utf-8", errors="replace")) for text in texts), 1)
