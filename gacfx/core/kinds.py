"""The table of kinds of decisions: our own, those that are registered, those of other packages.

A new kind is a value like those of :mod:`gacfx.core.decision`, a carrier like
``gacfx/modules/low_rank.py``, and one line in :data:`BUILT_IN`; a kind from another package is
found by the entry point ``gacfx.decisions``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import entry_points
from typing import Any

from gacfx.core.decision import Decision, Dense, LowRank, Pivot
from gacfx.core.names import printable
from gacfx.errors import PlanError


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: a kind of decision and what carries it out."""

    decision: type[Decision]
    carrier: str = ""
    """``module:name`` of its class of layers (:class:`gacfx.modules.carrier.Carrier`), imported
    when it is needed; empty where nothing replaces the weight."""

    @property
    def name(self) -> str:
        """As plans and checkpoints have it."""
        return self.decision.kind


BUILT_IN = (
    Kind(Dense),
    Kind(LowRank, "gacfx.modules.low_rank:LowRankLinear"),
    Kind(Pivot, "gacfx.modules.pivot:PivotLinear"),
)
ENTRY_POINTS = "gacfx.decisions"
"""Group of entry points by which other packages bring a :class:`Kind`."""

_KINDS = {kind.name: kind for kind in BUILT_IN}


def register(kind: Kind) -> Kind:
    """Make a kind known by its name.

    Raises:
        PlanError: another kind has that name.
    """
    if _KINDS.setdefault(kind.name, kind) != kind:
        raise PlanError(f"two kinds of decision are called {kind.name!r}")
    return kind


def known_kinds() -> dict[str, Kind]:
    """Name -> kind: our own and those that were registered, or that entry points bring.

    Raises:
        PlanError: an entry point cannot be imported, or brings no kind, or one whose name is taken.
    """
    for found in entry_points(group=ENTRY_POINTS):
        if found.name not in _KINDS:
            try:
                kind = found.load()
            except (ImportError, AttributeError) as error:
                raise PlanError(
                    f"entry point {found.name!r} of {ENTRY_POINTS}, {found.value}, cannot be "
                    f"imported: {error}"
                ) from error
            if not isinstance(kind, Kind) or kind.name != found.name:
                raise PlanError(
                    f"entry point {found.name!r} of {ENTRY_POINTS} is no kind of that name; give "
                    "a gacfx.core.kinds.Kind"
                )
            register(kind)
    return dict(_KINDS)


def find_kind(name: object) -> Kind:
    """The kind of this name.

    Raises:
        PlanError: there is none; lists those that there are.
    """
    if isinstance(name, str) and name in _KINDS:
        return _KINDS[name]  # no look at entry points for what is known
    known = known_kinds()
    if not isinstance(name, str) or name not in known:
        raise PlanError(
            f"no kind of decision {printable(repr(name))}; this gacfx knows {', '.join(known)}: "
            "install the version, or the package, that brings it"
        )
    return known[name]


def write_decision(decision: Decision) -> dict[str, Any]:
    """Plain JSON values: the kind and its fields."""
    return {"kind": decision.kind, **asdict(decision)}  # type: ignore[call-overload]


def read_decision(raw: object) -> Decision:
    """What :func:`write_decision` wrote.

    Raises:
        PlanError: an unknown kind, a missing or unknown field, or one that is no whole number.
    """
    if not isinstance(raw, Mapping):
        raise PlanError(f"a decision is a table with its kind, not {printable(repr(raw), 60)}")
    cls = find_kind(raw.get("kind")).decision
    given = {key: found for key, found in raw.items() if key != "kind"}
    wanted = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    for name in sorted(wanted ^ given.keys()):
        what = "is missing" if name in wanted else "is no field of it"
        raise PlanError(f"{cls.kind}: {printable(str(name))} {what}")
    whole = {each.name for each in fields(cls) if each.type is int}  # type: ignore[arg-type]
    try:
        return cls(**{name: _read_field(given[name], name in whole) for name in given})
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"{cls.kind}: {error}") from error


def _read_field(found: object, whole: bool = False) -> object:
    if isinstance(found, list | tuple) and not whole:
        return tuple(map(_read_field, found))
    if type(found) is not int:
        raise ValueError(f"{printable(repr(found), 60)} is no whole number")
    return found
