"""The table of kinds of decisions: our own, those that are registered, those of other packages.

A new kind is a value like those of :mod:`gacfx.core.decision`, a carrier like
``gacfx/modules/low_rank.py``, and one line in :data:`BUILT_IN`; a kind from another package is
found by the entry point ``gacfx.decisions``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from gacfx.core.decision import Decision, Dense, LowRank, Pivot, PivotInOrder
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.names import printable
from gacfx.core.padding import Padded
from gacfx.core.pruning import Each, Gone, Heads, Skip, Sliced, Width
from gacfx.core.routed import Routed
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.table import Table
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
    Kind(PivotInOrder, "gacfx.modules.pivot_in_order:PivotInOrderLinear"),
    Kind(GroupedLowRank, "gacfx.modules.grouped_low_rank:GroupedLowRankLinear"),
    Kind(Routed, "gacfx.modules.rank_experts:RankExpertLinear"),
    Kind(SharedBasis, "gacfx.modules.shared_basis:SharedBasisLinear"),
    Kind(Sliced, "gacfx.modules.sliced:SlicedLinear"),
    Kind(Padded, "gacfx.modules.padded:PaddedLinear"),
    Kind(Gone),
    Kind(Each),
    Kind(Width),
    Kind(Heads),
    Kind(Skip),
)
KINDS = Table(
    "kind of decision",
    Kind,
    "gacfx.decisions",
    BUILT_IN,
    error=PlanError,
    hint="install the version, or the package, that brings it",
)
"""Name -> kind; ``KINDS.register`` adds one, and so do entry points of the group."""


def write_decision(decision: Decision) -> dict[str, Any]:
    """Plain JSON values: the kind and its fields."""
    own = fields(decision)  # type: ignore[arg-type]  # every kind is a dataclass
    return {"kind": decision.kind, **{f.name: _plain(getattr(decision, f.name)) for f in own}}


def _plain(found: Any) -> Any:
    if isinstance(found, Decision):
        return write_decision(found)
    return [_plain(each) for each in found] if isinstance(found, tuple) else found


def read_decision(raw: object) -> Decision:
    """What :func:`write_decision` wrote.

    Raises:
        PlanError: an unknown kind, a missing or unknown field, or one that is neither a whole
            number nor a decision.
    """
    if not isinstance(raw, Mapping):
        raise PlanError(f"a decision is a table with its kind, not {printable(repr(raw), 60)}")
    cls = KINDS.find(raw.get("kind")).decision
    given = {key: found for key, found in raw.items() if key != "kind"}
    wanted = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    for name in sorted(wanted ^ given.keys()):
        what = "is missing" if name in wanted else "is no field of it"
        raise PlanError(f"{cls.kind}: {printable(str(name))} {what}")
    types = {each.name: each.type for each in fields(cls)}  # type: ignore[arg-type]
    try:
        return cls(**{name: _read_field(given[name], types[name]) for name in given})
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"{cls.kind}: {error}") from error


def _read_field(found: object, wanted: object = None) -> object:
    """A field of its type; of a type that says nothing, what the value looks like."""
    item, *_ = get_args(wanted) or (None,)
    if isinstance(found, list | tuple) and wanted not in (int, Decision):
        return tuple(_read_field(each, item) for each in found)
    if isinstance(found, Mapping) and wanted is not int and item is None:
        return read_decision(found)
    if wanted is Decision:
        raise ValueError(f"{printable(repr(found), 60)} is no decision")
    if item is not None:
        raise ValueError(f"{printable(repr(found), 60)} is no list")
    if type(found) is not int:
        raise ValueError(f"{printable(repr(found), 60)} is no whole number")
    return found
