"""Settings in a name: ``asvd:alpha=0.3,scale=abs-max`` is ``asvd`` with two fields changed.

    @dataclass(frozen=True)
    class Asvd(Compressor):
        alpha: float = setting(0.5, "power of the channel scale")

    with_settings(ASVD, "alpha=0.30")       the same with alpha 0.3, by the name asvd:alpha=0.3

A name has one spelling: settings stand in the order of the fields, and those that change nothing
are left out. So names can be compared, and ``asvd:alpha=0.5`` is ``asvd``.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import isfinite
from typing import Any, Protocol, TypeVar

from gacfx.core.names import printable
from gacfx.errors import GacError, PipelineError

AFTER = ":"
"""Between the name of an entry and its settings."""
_KEY = "setting"
_TEXT = re.compile(r"[A-Za-z0-9._-]+")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_MOST = 80
"""Characters of a name that a file name keeps."""
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class Entry(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str:
        """By which it is asked for."""
        ...


T = TypeVar("T", bound=Entry)


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a field is marked with."""

    what: str
    kind: type
    known: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of an entry, as lists and messages show it."""

    name: str
    """As it is written in a name, with ``-`` for ``_``."""
    default: str
    """Its value in the entry that the name without settings means."""
    what: str
    """What it says, in a few words."""
    values: str
    """What it may be: ``a number``, ``local, global``."""

    def __str__(self) -> str:
        return f"{self.name}={self.default}"


def setting(
    default: object, what: str, *, known: Iterable[str] = (), kind: type | None = None
) -> Any:
    """A field of a frozen dataclass that a name may set.

    Args:
        default: its value where nothing is said; None for a field that may be empty, written
            ``none``.
        what: it says, in a few words.
        known: texts that it may be, if they are few; the class checks values by itself.
        kind: int, float, bool or str; that of the default if None.
    """
    mark = _Mark(what, kind or type(default), tuple(known), default is None)
    if mark.kind not in _WORDS:
        raise TypeError(f"a setting is an int, a float, a bool or a str, not {mark.kind.__name__}")
    return field(default=default, metadata={_KEY: mark})


def settings_of(entry: object) -> tuple[Setting, ...]:
    """The settings of an entry, in the order of its fields; empty for one that has none."""
    return tuple(
        Setting(_written(name), _spelled(getattr(entry, name)), mark.what, _values(mark))
        for name, mark in _marks(entry).items()
    )


def with_settings(entry: T, text: str, *, what: str = "method") -> T:
    """The entry with some fields replaced, by a name that says so.

    Args:
        entry: a frozen dataclass with a field ``name``; its values are the defaults.
        text: ``alpha=0.3,scale=abs-max``.
        what: the entry is, in words.

    Raises:
        PipelineError: no such setting, a value that it cannot have, one that is said twice, or an
            entry without settings; lists those that there are.
    """
    marks, where = _marks(entry), f"{what} {entry.name!r}"
    if not marks:
        raise PipelineError(f"{where} has no settings; leave out {printable(AFTER + text)!r}")
    found = dict[str, object]()
    for item in text.split(","):
        written, equals, value = item.partition("=")
        name = next((each for each in marks if _written(each) == written), None)
        if name is None:
            said = printable(repr(written))
            raise PipelineError(f"{where}: no setting {said}; {_known(entry)}")
        if not equals:
            raise PipelineError(
                f"{where}: {written} has no value, as {written}=...; {_known(entry)}"
            )
        if name in found:
            raise PipelineError(f"{where}: {written} is given twice")
        found[name] = _read(where, written, marks[name], value, entry)
    changed = {name: value for name, value in found.items() if value != getattr(entry, name)}
    if not changed:
        return entry
    said = ",".join(
        f"{_written(name)}={_spelled(changed[name])}" for name in marks if name in changed
    )
    try:
        # Whatever else must hold of the values is checked by the class itself.
        return replace(entry, name=f"{entry.name}{AFTER}{said}", **changed)  # type: ignore[type-var]
    except (GacError, TypeError, ValueError) as error:
        raise PipelineError(f"{printable(error, 200)}; {_known(entry)}") from error


def file_name(name: str) -> str:
    """A name as part of a file name: itself, or its letters and a digest where it has settings."""
    if not _UNSAFE.search(name) and len(name) <= _MOST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{_UNSAFE.sub('_', name)[:_MOST]}.{digest}"


def _marks(entry: object) -> dict[str, _Mark]:
    """Field -> its mark, of an entry whose name is a field, too."""
    if not is_dataclass(entry) or isinstance(entry, type):
        return {}
    known = fields(entry)
    if not any(each.name == "name" and each.init for each in known):
        return {}
    return {each.name: each.metadata[_KEY] for each in known if _KEY in each.metadata}


def _read(where: str, written: str, mark: _Mark, text: str, entry: object) -> object:
    """The value of a setting.

    Raises:
        PipelineError: the text is none.
    """
    if mark.optional and text == "none":
        return None
    value: object = None
    try:
        if mark.kind is bool:
            value = {"true": True, "false": False}[text]
        elif mark.kind is str:
            value = text if _TEXT.fullmatch(text) else None
        else:
            value = mark.kind(text)
    except (KeyError, ValueError, OverflowError):
        value = None
    if value is None or (isinstance(value, float) and not isfinite(value)):
        raise PipelineError(
            f"{where}: {written}={printable(repr(text))}: it is {_values(mark)}; {_known(entry)}"
        )
    return value


def _known(entry: object) -> str:
    """All settings with their defaults, for messages."""
    return f"it has: {', '.join(map(str, settings_of(entry)))}"


def _values(mark: _Mark) -> str:
    words = ", ".join(mark.known) if mark.known else _WORDS[mark.kind]
    return f"{words}, or none" if mark.optional else words


def _written(name: str) -> str:
    return name.replace("_", "-")


def _spelled(value: object) -> str:
    """A value as a name has it; numbers that are read back to the same bits."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0").replace("e+", "e")
    return str(value)
