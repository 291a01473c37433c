"""What a block is told: how many heads it has now, how long they are, or that it is skipped.

A plan knows which heads stay (:class:`gacfx.core.pruning.Heads`); a module, and the checkpoint that
it comes from, need their numbers only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from gacfx.core.names import printable
from gacfx.core.padding import PaddedHeads
from gacfx.core.pruning import Heads, Skip
from gacfx.errors import PlanError

MOST_HEADS = 2**16
"""Heads of one attention."""


@dataclass(frozen=True, slots=True)
class HeadCounts:
    """Numbers of heads of an attention."""

    groups: int
    """Key-value heads."""
    heads: int
    """Query heads in all, equally many for each key-value head."""

    @property
    def problem(self) -> str:
        """Why no attention has such numbers; empty if one can."""
        for what, found in (("key-value heads", self.groups), ("query heads", self.heads)):
            if not 1 <= found <= MOST_HEADS:
                return f"{found} {what} are outside 1 .. {MOST_HEADS}"
        if self.heads % self.groups:
            return f"{self.heads} query heads cannot be shared out to {self.groups} key-value heads"
        return ""

    def __str__(self) -> str:
        return f"heads {self.heads}/{self.groups}"


BlockState = HeadCounts | PaddedHeads | Skip
"""What becomes of a block as a whole."""


def block_state(found: Heads | BlockState) -> BlockState:
    """The numbers of a decision about heads; a skip is what it is."""
    if isinstance(found, Heads):
        return HeadCounts(len(found.groups), found.queries)
    return found


def write_block_state(state: BlockState) -> dict[str, str | int]:
    """Plain JSON values."""
    if isinstance(state, Skip):
        return {"kind": Skip.kind}
    if isinstance(state, PaddedHeads):
        return {"kind": state.kind, "head_dim": state.head_dim, "layout": state.layout}
    return {"kind": Heads.kind, "groups": state.groups, "heads": state.heads}


def read_block_state(raw: object) -> BlockState:
    """What :func:`write_block_state` wrote.

    Raises:
        PlanError: an unknown kind, a missing or unknown field, or numbers that no attention has.
    """
    if not isinstance(raw, Mapping):
        raise PlanError(f"a block is a table with its kind, not {printable(repr(raw), 60)}")
    kind = raw.get("kind")
    known = {Heads.kind: HeadCounts, PaddedHeads.kind: PaddedHeads, Skip.kind: Skip}
    if not isinstance(kind, str) or kind not in known:
        raise PlanError(
            f"a block has the kind '{Heads.kind}', '{PaddedHeads.kind}' or '{Skip.kind}', not "
            f"{printable(repr(kind), 60)}"
        )
    given = {key: found for key, found in raw.items() if key != "kind"}
    wanted = [each.name for each in fields(known[kind])]
    for name in sorted({*wanted} ^ given.keys(), key=str):
        what = "is missing" if name in wanted else "is no field of it"
        raise PlanError(f"{kind}: {printable(str(name))} {what}")
    if kind == Skip.kind:
        return Skip()
    for name, found in sorted(given.items()):
        if name != "layout" and type(found) is not int:
            raise PlanError(f"{kind}: {name}: {printable(repr(found), 60)} is no whole number")
    state = PaddedHeads(**given) if kind == PaddedHeads.kind else HeadCounts(**given)
    if state.problem:
        raise PlanError(f"{kind}: {state.problem}")
    return state
