"""Kinds of decisions for tests: one that differs within a group, one whose fields are a list."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from gacfx.core.decision import DENSE, Decision, LowRank, Stored, Work
from gacfx.core.kinds import KINDS, Kind


class _Toy(Decision):
    """Asked as a whole it keeps nothing: its parts are asked."""

    __slots__ = ()

    def problem(self, rows: int, columns: int) -> str:
        """None."""
        return ""

    def params(self, rows: int, columns: int) -> int:
        """None."""
        return 0

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """None."""
        return ()

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """None."""
        return {}

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class Experts(_Toy):
    """A rank for each weight; 0 stays dense."""

    kind: ClassVar[str] = "toy-experts"
    ranks: tuple[int, ...]

    def of(self, at: int) -> Decision:
        """The part of one weight."""
        rank = self.ranks[at]
        return LowRank(rank) if rank else DENSE


@dataclass(frozen=True, slots=True)
class Other(_Toy):
    """Another kind of the same name."""

    kind: ClassVar[str] = "toy-experts"
    ranks: tuple[int, ...]


EXPERTS = Kind(Experts)


@contextmanager
def known(kind: Kind = EXPERTS) -> Iterator[None]:
    """Known as long as this lasts."""
    KINDS.register(kind)
    try:
        yield
    finally:
        KINDS.forget(kind.name)
