"""Windows: token ids of documents, cut to the model's positions, with nothing lost uncounted."""

# T tokens of one document

from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal

from torch import Tensor

MIN_TOKENS = 33
"""Shorter documents say more about beginnings of texts than about the language."""

Known = Literal["exact", "about", "more than"]
"""How a number of tokens is known."""


@dataclass(slots=True)
class Cut:
    """Windows that were cut so far, and what was read for them."""

    window: int
    room: int | None
    """Tokens that may still be used."""
    found: list[tuple[int, Tensor]] = field(default_factory=list)
    """Place of the document, and one of its windows."""
    skipped: int = 0
    ends: int = 0
    longest: int = 0
    documents: int = 0
    tokens: int = 0
    characters: int = 0
    """Characters that ``tokens`` are of."""
    unread: int = 0
    """Further characters of the same documents."""

    @property
    def windows(self) -> tuple[Tensor, ...]:
        """In the order of the documents, whatever the order in which they were cut."""
        return tuple(window for _, window in sorted(self.found, key=itemgetter(0)))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Documents that :attr:`windows` are from, counted from one."""
        return tuple(sorted(place + 1 for place, _ in self.found))

    @property
    def full(self) -> bool:
        """No further window fits."""
        return self.room is not None and self.room < MIN_TOKENS

    def add(self, place: int, ids_T: Tensor, characters: int, unread: int) -> None:
        """Cut one document, of which ``unread`` characters were not tokenised."""
        self.documents += 1
        self.tokens += len(ids_T)
        self.characters += characters
        self.unread += unread
        self.longest = max(self.longest, len(ids_T))
        if len(ids_T) < MIN_TOKENS:
            self.skipped += 1
            return
        pieces = ids_T[: self.room].split(self.window)
        pieces = tuple(piece for piece in pieces if len(piece) >= MIN_TOKENS)
        self.found += ((place, piece) for piece in pieces)
        used = sum(len(piece) for piece in pieces)
        whole = self.room is None or len(ids_T) <= self.room
        self.ends += whole and used < len(ids_T)
        if self.room is not None:
            self.room -= used

    def given(self, documents: object, rest: Iterator[str]) -> tuple[int, Known]:
        """(tokens of the whole text, how that is known); ``rest`` are the documents not read."""
        unread = self.unread
        if not self.full:
            return self.tokens, "exact"
        if isinstance(documents, list | tuple):
            unread += sum(map(len, rest))
        elif isinstance(documents, Sized):
            each = (self.characters + self.unread) / self.documents
            unread += round(each * (len(documents) - self.documents))
        elif next(rest, None) is not None:
            return self.tokens, "more than"
        if unread == 0:
            return self.tokens, "exact"
        return _round_up(self.tokens * (self.characters + unread) / self.characters), "about"


def _round_up(tokens: float) -> int:
    """To three digits, as an estimate has no more; never below what was counted."""
    step = 10 ** max(len(str(int(tokens))) - 3, 0)
    return int(-(-tokens // step) * step)
