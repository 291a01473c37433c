"""Tables: name -> what is known by it, from gacfx, by ``register`` or by entry points.

Entry points are other packages' code: they are read only when a name is asked for that is not
known, and then that one alone, or when everything is listed; never at import.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from gacfx.core.names import printable
from gacfx.errors import GacError, PipelineError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Named(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str:
        """By which it is asked for."""
        ...


T = TypeVar("T", bound=Named)


class Table(Mapping[str, T]):
    """What is known so far; as a mapping it never reads an entry point."""

    def __init__(
        self,
        what: str,
        entries: type[T],
        group: str,
        own: Iterable[T] = (),
        *,
        also: tuple[str, ...] = (),
        error: type[GacError] = PipelineError,
        hint: str = "",
    ) -> None:
        """A table of gacfx's own entries.

        Args:
            what: one of them in words, for messages: ``method``.
            entries: their class.
            group: of entry points that bring more.
            own: gacfx's.
            also: names that stand for no entry, listed with the others in messages.
            error: raised for a name that is not known, taken, or brought by nobody.
            hint: what to do about an unknown name.
        """
        self.error, self.hint = error, f": {hint}" if hint else ""
        self.what, self.entries, self.group, self.also = what, entries, group, also
        self._known: dict[str, T] = {}
        for entry in own:
            self.register(entry)

    def __getitem__(self, name: str) -> T:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def register(self, entry: T) -> T:
        """Make an entry known by its name.

        Raises:
            GacError: another one has that name, or it is none that an option could have.
        """
        if not _NAME.fullmatch(entry.name):
            said = printable(repr(entry.name))
            raise self.error(f"{self.what} {said}: a name has letters, digits, - . and _ only")
        if entry.name in self.also or self._known.setdefault(entry.name, entry) != entry:
            raise self.error(f"{self.what} {entry.name!r} is known twice; rename one")
        return entry

    def forget(self, name: str) -> None:
        """Take an entry out again."""
        del self._known[name]

    def seek(self, name: str) -> T | None:
        """The entry of this name, or None.

        Raises:
            GacError: the entry point of this name does not bring one.
        """
        if name not in self._known:
            for point in entry_points(group=self.group, name=name):
                self.register(self._brought(point))
        return self._known.get(name)

    def find(self, name: object) -> T:
        """The entry of this name.

        Raises:
            GacError: there is none; lists those that there are. Or its entry point does not
                bring one.
        """
        found = self.seek(name) if isinstance(name, str) else None
        if found is None:
            others = {point.name for point in entry_points(group=self.group)} - self._known.keys()
            known = ", ".join((*self.also, *self._known, *sorted(others)))
            raise self.error(f"no {self.what} {printable(repr(name))}; known: {known}{self.hint}")
        return found

    def everything(self) -> tuple[T, ...]:
        """All entries, those of entry points included: our own first.

        Raises:
            GacError: an entry point does not bring one, or one whose name is taken.
        """
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            self.register(self._brought(point))
        return tuple(self._known.values())

    def _brought(self, point: EntryPoint) -> T:
        """What an entry point brings, checked."""
        where = f"entry point {printable(point.name)!r} of {self.group}"
        if point.dist is not None:
            where += f" ({printable(point.dist.name)})"
        try:
            found = point.load()
        except Exception as error:  # whatever importing another package may raise
            said = printable(f"{type(error).__name__}: {error}")
            raise self.error(f"{where} cannot be loaded: {said}") from error
        if not isinstance(found, self.entries) or getattr(found, "name", None) != point.name:
            cls = f"{self.entries.__module__}.{self.entries.__qualname__}"
            raise self.error(
                f"{where} is no {self.what} of that name; it must bring an instance of {cls}"
            )
        return found
