"""Text for calibration and evaluation: documents -> token ids -> windows -> two parts.

A document longer than the model's positions is cut into consecutive windows, and each window is
scored alone and from its first position. Every token is used; only what is left of a document
under 33 tokens is not, and is counted.

A window that continues a document begins with the token that stands there: the special tokens of
the tokenizer stay where it put them, at the ends of the document, and none is repeated. Repeating
the first one in every window was measured on the same tokens: the loss rises by 0.055 +- 0.001
nats per token on babyllama-tok105-1M with tinystories_val (584 windows) and by 0.031 on
stories260K, which have learnt that a story begins there; it falls by 0.034 on the demo model, which
saw no other windows in training. No rule is right for all; text as it was written is the
plainer one. Models of billions of parameters were not measured.
"""

# T tokens of one window

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from gacfx.calibration.counting import Counting
from gacfx.calibration.documents import read_documents, spread, spread_texts
from gacfx.calibration.token_ids import Tokenizer, first_token_ids
from gacfx.calibration.windows import MIN_TOKENS, Cut, Known
from gacfx.core.goal import read_count
from gacfx.core.model_class import embedding_rows, positions
from gacfx.errors import CalibrationError, PlanError

__all__ = [
    "MIN_TOKENS",
    "Corpus",
    "Tokenizer",
    "check_fits",
    "document_digest",
    "embedding_rows",
    "max_positions",
    "read_documents",
    "split",
    "token_limit",
    "tokenize",
    "usage",
]

DEFAULT_WINDOW = 2048
"""Window of the papers (algorithms of ASVD, SVD-LLM); longer ones cost memory in the backward."""

DEFAULT_WINDOWS = 256
"""Windows of calibration text if nothing is asked for: as many as SVD-LLM's experiments take."""

SAMPLE_TOKENS = 2048
"""Held-back text that answers a first question: does the model read it, can this plan be the best
one?"""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenised text in windows, and how much of what was given it is."""

    documents: tuple[Tensor, ...]
    """Token ids of each window, int64 [T] with T >= 33: a document, or a part of a longer one."""
    skipped: int = 0
    """Documents that were too short, of those that were read."""
    ends: int = 0
    """Ends of longer documents that were too short for a window."""
    given: int | None = None
    """Tokens of the whole text, used or not; None when it is not known."""
    given_is: Known = "exact"
    """``about``: a token limit ended the reading, and the rest counts by its characters;
    ``more than``: nothing is known of the rest."""
    numbers: tuple[int, ...] = ()
    """Document of the whole text that each window is from, from one; empty for 1, 2, 3 ..."""
    counting: Counting = Counting()
    """Which tokens of each window count in second moments; losses are those of all."""

    def number(self, index: int) -> int:
        """Document of the whole text that a window is from, counted from one."""
        return self.numbers[index] if self.numbers else index + 1

    @property
    def tokens(self) -> int:
        """Tokens of all windows: those that are used."""
        return sum(len(ids_T) for ids_T in self.documents)

    @property
    def counted_tokens(self) -> int:
        """Tokens of all windows that count in second moments."""
        return sum(self.counting.tokens(len(ids_T)) for ids_T in self.documents)

    @cached_property
    def digest(self) -> str:
        """sha256 over the token ids of all windows in their order, and over what counts of them
        where that is not all."""
        mixed = hashlib.sha256(b"".join(map(document_digest, self.documents)))
        if not self.counting.all:
            mixed.update(json.dumps(self.counting.described(), sort_keys=True).encode())
        return mixed.hexdigest()

    def sample(self, tokens: int) -> "Corpus":
        """Windows from all over it, until they have so many tokens; at least one."""
        return self.divided(tokens)[0]

    def divided(self, tokens: int) -> "tuple[Corpus, Corpus | None]":
        """(:meth:`sample`, the other windows); None where there are no others."""
        places, used = list[int](), 0
        for place in spread(len(self.documents)):
            if used >= tokens:
                break
            places.append(place)
            used += len(self.documents[place])
        others = sorted({*range(len(self.documents))} - {*places})
        return self.part(sorted(places)), self.part(others) if others else None

    def part(self, places: list[int], skipped: int = 0, ends: int = 0) -> "Corpus":
        """Some windows of it."""
        documents = tuple(self.documents[place] for place in places)
        numbers = tuple(map(self.number, places))
        return Corpus(documents, skipped, ends, numbers=numbers, counting=self.counting)


def document_digest(ids_T: Tensor) -> bytes:
    """sha256 over the token ids of one window."""
    return hashlib.sha256(ids_T.cpu().numpy().astype("<i8").tobytes()).digest()


def usage(corpus: Corpus, what: str = "calibration", windows: int | None = None) -> str:
    """How much of the text is used, in one line.

    Args:
        corpus: windows, or whole documents.
        what: it is used for.
        windows: of whole documents, how many they make; None where the corpus is windows.
    """
    word = "" if corpus.given_is == "exact" else f"{corpus.given_is} "
    of = "" if corpus.given is None else f" of {word}{corpus.given:,}"
    left = [
        f"{count:,} {name}{'s' * (count > 1)}{rest}"
        for count, name, rest in (
            (corpus.skipped, "document", ""),
            (corpus.ends, "end", " of documents"),
        )
        if count
    ]
    windows = windows or len(corpus.documents)
    used = f"{what}: {corpus.tokens:,}{of} tokens in {windows:,} window{'s' * (windows > 1)}"
    return f"{used}; {' and '.join(left)} under {MIN_TOKENS} tokens left out" if left else used


def token_limit(asked: int | str | None, window: int) -> int | None:
    """Most tokens to use: as asked, 256 windows if nothing is, None for ``all``.

    Args:
        asked: a number, text such as ``500k``, or ``all``.
        window: longest window, tokens.

    Raises:
        CalibrationError: another word, or fewer than the 33 tokens of a window.
    """
    if asked is None:
        return DEFAULT_WINDOWS * window
    if asked == "all":
        return None
    try:
        found = read_count(asked, "tokens", "500k or all")
    except PlanError as error:
        raise CalibrationError(str(error)) from error
    if found < MIN_TOKENS:
        raise CalibrationError(
            f"tokens {asked}: one window has at least {MIN_TOKENS}; ask for more, such as 500k"
        )
    return found


def tokenize(
    documents: "Iterable[str | Mapping[str, object]]",
    tokenizer: Tokenizer,
    max_positions: int,
    limit_tokens: int | None = None,
) -> Corpus:
    """Windows of each document's token ids, with the special tokens that the tokenizer adds.

    Where a limit leaves documents of a list unread, those that are read lie evenly in it: a file of
    articles is worth more than its first article. An iterator is read from its beginning.

    Args:
        documents: texts, or rows of a data set with a ``text``; tokenised only as far as
            ``limit_tokens`` asks for.
        tokenizer: Hugging Face tokenizer of the model.
        max_positions: longest window in tokens.
        limit_tokens: most tokens altogether; the window that is read last is cut to fit, or left
            out when fewer than 33 of its tokens would fit.

    Raises:
        CalibrationError: what is given is no text, the tokenizer fails on it, or no document has 33
            tokens within these limits.
    """
    texts = spread_texts(documents)
    cut = Cut(max_positions, limit_tokens)
    for place, text in texts:
        ids_T, characters = first_token_ids(tokenizer, text, cut.room, f"document {place + 1}")
        cut.add(place, ids_T, characters, len(text) - characters)
        if cut.full:
            break
    if not cut.windows:
        raise CalibrationError(
            f"no document has {MIN_TOKENS} tokens within the limits (longest {cut.longest}, "
            f"positions {max_positions}, token limit {limit_tokens}); give longer texts or raise "
            "the limits"
        )
    given, how = cut.given(documents, (text for _, text in texts))
    return Corpus(cut.windows, cut.skipped, cut.ends, given, how, cut.numbers)


def split(corpus: Corpus, held_back: float = 0.25) -> tuple[Corpus, Corpus]:
    """(calibration part, held-back part): every k-th window is held back, order kept.

    Windows are what ``Corpus.documents`` holds, so one long document can be split. The parts have
    no window in common, but windows of one document on both sides: enough to rank plans, no
    judgement on text of another kind.

    Args:
        corpus: at least two windows.
        held_back: share of the windows in the second part, 0..1; each part gets at least one.

    Raises:
        CalibrationError: fewer than two windows, or a share outside 0..1.
    """
    count = len(corpus.documents)
    if count < 2:
        raise CalibrationError(
            f"{count} window of {corpus.tokens} tokens cannot be split into calibration and "
            "held-back text; give more text, at least two documents or two windows of a long one"
        )
    if not 0 < held_back < 1:
        raise CalibrationError(f"held_back={held_back} is not a share between 0 and 1")
    held = min(max(round(count * held_back), 1), count - 1)
    marks = [(i + 1) * held // count > i * held // count for i in range(count)]
    kept = [place for place, mark in enumerate(marks) if not mark]
    return (
        corpus.part(kept, corpus.skipped, corpus.ends),
        corpus.part([place for place, mark in enumerate(marks) if mark]),
    )


def max_positions(model: nn.Module, most: int = DEFAULT_WINDOW) -> int:
    """Longest window for a Hugging Face model: its positions, at most ``most`` tokens."""
    return min(most, positions(model) or most)


def check_fits(model: nn.Module, corpus: Corpus) -> None:
    """Nothing when the model can read every window.

    Raises:
        CalibrationError: an empty corpus, a token id without a row in the embedding, a window
            longer than the model's positions, or no token that counts.
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
            f"a window has {longest} tokens, the model {max_positions(model, most=longest)} "
            "positions; tokenise with max_positions(model)"
        )
    corpus.counting.check(corpus.documents)
