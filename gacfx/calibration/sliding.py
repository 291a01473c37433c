"""Windows that overlap: every token of a document is predicted once, with enough text before it.

    window 8, stride 4, a document of 15 tokens      . seen only, x predicted

    tokens   0 1 2 3 4 5 6 7 8 9 10 11 12 13 14
    first    . x x x x x x x
    second           . . . . x x x  x
    third                    . . .  .  x  x  x

A window begins every ``stride`` tokens; one that is not the first predicts the tokens that the
windows before it did not, each with at least ``window - stride`` tokens before it. With a stride of
the whole window nothing overlaps, and all but the first token of each window are predicted.
"""

# T tokens of one window

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.calibration.evaluate import token_losses
from gacfx.calibration.text import Corpus, Tokenizer, tokenize
from gacfx.calibration.windows import MIN_TOKENS
from gacfx.errors import CalibrationError

WHOLE = 2**62
"""Positions, where documents are not to be cut."""


@dataclass(frozen=True, eq=False)
class Slides:
    """A text in windows, and how many tokens at the end of each are predicted."""

    corpus: Corpus
    """The windows; tokens that two of them share count in both."""
    scored: tuple[int, ...]
    """Tokens of each window that are predicted, its last ones; at least one."""
    window: int
    """Most tokens of a window."""
    stride: int
    """Tokens from one beginning to the next."""
    text: Corpus
    """What the windows are of: whole documents, or the windows themselves where none overlap."""

    @property
    def tokens(self) -> int:
        """Tokens that are predicted."""
        return sum(self.scored)

    @property
    def context(self) -> int:
        """Fewest tokens before a predicted one, the first window of a document aside."""
        return self.window - self.stride

    def last(self, found: "Iterable[Tensor]") -> list[Tensor]:
        """What was found of the predicted tokens of each window.

        Args:
            found: [T - 1] of each window, one number for each token from the second on.
        """
        return [each[len(each) - n :] for each, n in zip(found, self.scored, strict=True)]


def check_windows(
    window: int, stride: int, positions: int | None, where: str = "the model"
) -> None:
    """Nothing when a text can be cut so.

    Args:
        window: tokens of a window.
        stride: tokens from one beginning to the next.
        positions: of the model; None where it does not say.
        where: the model's name, for the message.

    Raises:
        CalibrationError: a window under 33 tokens or beyond the model's positions, a stride outside
            1 .. window.
    """
    if window < MIN_TOKENS:
        raise CalibrationError(f"window {window}: one has at least {MIN_TOKENS} tokens")
    if not 1 <= stride <= window:
        raise CalibrationError(
            f"stride {stride}: give 1 .. {window}, the window; a larger one leaves out tokens"
        )
    if positions is not None and window > positions:
        raise CalibrationError(
            f"window {window}: {where} has {positions} positions; give at most these"
        )


def read_slides(
    documents: "Iterable[str | Mapping[str, object]]",
    tokenizer: Tokenizer,
    window: int,
    stride: int,
    limit_tokens: int | None = None,
) -> Slides:
    """The windows of some texts.

    Documents under 33 tokens are left out and counted; where nothing overlaps ends of documents are
    too, as :func:`gacfx.calibration.text.tokenize` does.

    Args:
        documents: texts, or rows of a data set with a ``text``.
        tokenizer: the model's.
        window: most tokens of a window.
        stride: tokens from one beginning to the next.
        limit_tokens: most tokens altogether, each counted once.

    Raises:
        CalibrationError: of :func:`check_windows` and of :func:`gacfx.calibration.text.tokenize`.
    """
    check_windows(window, stride, None)
    if stride < window:
        return slide(tokenize(documents, tokenizer, WHOLE, limit_tokens), window, stride)
    cut = tokenize(documents, tokenizer, window, limit_tokens)
    return Slides(cut, tuple(len(ids_T) - 1 for ids_T in cut.documents), window, stride, cut)


def slide(text: Corpus, window: int, stride: int) -> Slides:
    """The windows of whole documents.

    Args:
        text: documents that are not cut.
        window: most tokens of a window.
        stride: tokens from one beginning to the next.

    Raises:
        CalibrationError: of :func:`check_windows`, or documents of fewer than 33 tokens only.
    """
    check_windows(window, stride, None)
    windows, scored, numbers = list[Tensor](), list[int](), list[int]()
    skipped, ends = text.skipped, text.ends
    for index, ids_T in enumerate(text.documents):
        if len(ids_T) < MIN_TOKENS:
            skipped += 1
            continue
        for start, count in _starts(len(ids_T), window, stride):
            piece_T = ids_T[start : start + window]
            if stride == window and len(piece_T) < MIN_TOKENS:
                ends += 1
                continue
            windows.append(piece_T)
            scored.append(count)
            numbers.append(text.number(index))
    if not windows:
        raise CalibrationError(f"no document has {MIN_TOKENS} tokens; give longer texts")
    cut = Corpus(tuple(windows), skipped, ends, text.given, text.given_is, tuple(numbers))
    return Slides(cut, tuple(scored), window, stride, text)


def _starts(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """(beginning, tokens that are predicted) of each window of a document."""
    done = 1  # nothing stands before the first token, and nothing predicts it
    for start in range(0, tokens, stride):
        end = min(start + window, tokens)
        yield start, end - max(done, start + 1)
        done = end
        if end == tokens:
            return


def sliding_losses(
    model: nn.Module, slides: Slides, *, device: torch.device | None = None
) -> list[Tensor]:
    """Negative log-likelihood of the predicted tokens of each window: float32, nats, on the CPU.

    Args:
        model: a causal language model; left as it was.
        slides: the windows.
        device: as for :func:`gacfx.calibration.evaluate.evaluate`.

    Raises:
        CalibrationError: the windows do not fit the model.
    """
    return slides.last(token_losses(model, slides.corpus, device=device))
