"""Structured pruning as decisions: units of a coupled structure go, from all its weights at once.

    Width(kept=(0, 2, 5), parts)     channels of an MLP that stay
    Heads(groups=(1, 3), heads, ..)  key-value heads that stay, and query heads of each
    Skip()                           the whole block is taken out
    Each(parts)                      nothing goes; each weight has its own decision

What one weight then has is a :class:`Sliced`: fewer outputs or inputs, and a decision for the rest,
such as a low rank. Sources: LLM-Pruner (arXiv 2305.11627), coupled structures; for blocks
ShortGPT (arXiv 2403.03853).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from gacfx.core.decision import DENSE, Decision, Stored, Work
from gacfx.core.padding import Padded
from gacfx.core.shared_basis import SharedBasis


@dataclass(frozen=True, slots=True)
class Sliced(Decision):
    """Some outputs or inputs of the weight are gone, and ``rest`` becomes of what is left."""

    kind: ClassVar[str] = "sliced"
    outputs: int
    """Rows that are left."""
    inputs: int
    """Columns that are left."""
    rest: Decision = DENSE

    @property
    def rank(self) -> int | None:
        """Of the product that stands for what is left."""
        return self.rest.rank

    def problem(self, rows: int, columns: int) -> str:
        """The weight has not so many rows or columns, or the rest cannot be."""
        for what, left, of in (("outputs", self.outputs, rows), ("inputs", self.inputs, columns)):
            if not 1 <= left <= of:
                return f"{left} {what} are outside 1 .. {of}"
        if isinstance(self.rest, Sliced | Gone | Padded | SharedBasis):
            return f"what is left of a slice is no {self.rest.kind}"
        return self.rest.problem(self.outputs, self.inputs)

    def params(self, rows: int, columns: int) -> int:
        """Of the rest."""
        del rows, columns
        return self.rest.params(self.outputs, self.inputs)

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Of the rest."""
        del rows, columns
        return self.rest.work(self.outputs, self.inputs, bias)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Those of the rest; a smaller weight [outputs, inputs] where it stays dense."""
        del rows, columns
        if self.rest.is_dense:
            return {"weight": Stored((self.outputs, self.inputs), "weight")}
        return self.rest.tensors(self.outputs, self.inputs)

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """What is left where something went, and the dims of the rest."""
        new = [left for left, of in ((self.outputs, rows), (self.inputs, columns)) if left != of]
        return (*new, *self.rest.sizes(self.outputs, self.inputs))

    def odd_integers(self, name: str, found: Sequence[int]) -> str:
        """As the rest says."""
        return self.rest.odd_integers(name, found)

    def __str__(self) -> str:
        rest = "" if self.rest.is_dense else f" {self.rest}"
        return f"{self.outputs} x {self.inputs}{rest}"


@dataclass(frozen=True, slots=True)
class Gone(Decision):
    """The weight is taken out with its whole block."""

    kind: ClassVar[str] = "gone"

    def problem(self, rows: int, columns: int) -> str:
        """Empty: every weight can go."""
        return ""

    def params(self, rows: int, columns: int) -> int:
        """None."""
        return 0

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Nothing runs."""
        return ()

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Nothing is stored."""
        return {}

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """None is new."""
        return ()

    def __str__(self) -> str:
        return "gone"


GONE = Gone()


class ForSeveral(Decision):
    """A decision for a group of weights: what it costs is asked of its parts."""

    __slots__ = ()

    @abstractmethod
    def of(self, at: int) -> Decision:
        """The part of the weight at this place."""

    def problem(self, rows: int, columns: int) -> str:
        """One weight cannot have it."""
        del rows, columns
        return f"{self.kind} is a decision for several weights"

    def params(self, rows: int, columns: int) -> int:
        """Raises TypeError: ask the parts."""
        raise TypeError(self.problem(rows, columns))

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Raises TypeError: ask the parts."""
        raise TypeError(self.problem(rows, columns))

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Raises TypeError: ask the parts."""
        raise TypeError(self.problem(rows, columns))

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """Raises TypeError: ask the parts."""
        raise TypeError(self.problem(rows, columns))


@dataclass(frozen=True, slots=True)
class _InParts(ForSeveral):
    """A decision with a part for each weight of a group, in the order of the group."""

    parts: tuple[Decision, ...]

    @property
    def label(self) -> int | str:
        """As text, with the parts as they were chosen: a pivot in order was a pivot."""
        return self._text(_chosen)

    @property
    def is_dense(self) -> bool:
        """Every part stays as it is."""
        return all(part.is_dense for part in self.parts)

    def of(self, at: int) -> Decision:
        """The part at this place."""
        return self.parts[at]

    def misfit(self, count: int) -> str:
        """It has another number of parts, or one that is no decision for one weight."""
        if len(self.parts) != count:
            return f"{self.kind} has {len(self.parts)} parts for {count} weights"
        odd = [part for part in self.parts if isinstance(part, ForSeveral)]
        return f"its part {odd[0].kind} is no decision for one weight" if odd else ""

    def __str__(self) -> str:
        return self._text(str)

    def _text(self, said: Callable[[Decision], str]) -> str:
        """What stays, and what becomes of it where any of it is not dense."""
        rests = [part.rest if isinstance(part, Sliced) else part for part in self.parts]
        more = "" if all(r.is_dense for r in rests) else f": {', '.join(map(said, rests))}"
        return f"{self.size}{more}"

    @property
    def size(self) -> str:
        """How much stays, without what becomes of it."""
        return self.kind


@dataclass(frozen=True, slots=True)
class Each(_InParts):
    """Nothing is pruned, and each weight has its own decision."""

    kind: ClassVar[str] = "each"

    def _text(self, said: Callable[[Decision], str]) -> str:
        return ", ".join(map(said, self.parts))


@dataclass(frozen=True, slots=True)
class Width(_InParts):
    """Some channels between the layers of an MLP stay."""

    kind: ClassVar[str] = "width"
    kept: tuple[int, ...]
    """Channels that stay, rising."""

    def misfit(self, count: int) -> str:
        """The channels are in disorder, or the parts do not fit."""
        return _disorder("channels", self.kept) or _InParts.misfit(self, count)

    @property
    def size(self) -> str:
        """How many channels stay."""
        return f"width {len(self.kept)}"


@dataclass(frozen=True, slots=True)
class Heads(_InParts):
    """Some key-value heads of an attention stay, and equally many query heads of each."""

    kind: ClassVar[str] = "heads"
    groups: tuple[int, ...]
    """Key-value heads that stay, rising."""
    heads: tuple[tuple[int, ...], ...]
    """For each of them, which of its query heads stay, rising, counted inside the group."""

    def misfit(self, count: int) -> str:
        """The heads are in disorder or differ in number, or the parts do not fit."""
        problem = _disorder("key-value heads", self.groups)
        for heads in self.heads:
            problem = problem or _disorder("query heads", heads)
        if not problem and (
            len(self.heads) != len(self.groups) or len(set(map(len, self.heads))) != 1
        ):
            problem = "every key-value head that stays has equally many query heads"
        return problem or _InParts.misfit(self, count)

    @property
    def queries(self) -> int:
        """Query heads that stay in all."""
        return sum(map(len, self.heads))

    @property
    def size(self) -> str:
        """How many query heads stay, and how many key-value heads."""
        return f"heads {self.queries}/{len(self.groups)}"


@dataclass(frozen=True, slots=True)
class Skip(ForSeveral):
    """The block is taken out: what it adds to the residual stream is gone."""

    kind: ClassVar[str] = "skip"

    def of(self, at: int) -> Decision:
        """Every weight goes."""
        del at
        return GONE

    def __str__(self) -> str:
        return "skip"


def odd_parts(decision: Decision, shapes: Sequence[tuple[int, int]]) -> str:
    """Why the weights of a group cannot share a decision; empty if they can.

    Each weight may still be too small for its part, which :meth:`Decision.problem` says.

    Args:
        decision: of the group.
        shapes: (rows, columns) of its weights, dense.
    """
    problem = decision.misfit(len(shapes))
    if problem or isinstance(decision, Skip):
        return problem
    if isinstance(decision, SharedBasis):
        return decision.odd_shapes(shapes)
    parts = [decision.of(at) for at in range(len(shapes))]
    inside = isinstance(decision, Width | Heads)
    odd = Gone | Padded if inside else Gone | Padded | Sliced
    if any(isinstance(part, SharedBasis) for part in parts):
        return f"a shared basis is decided for a whole group, and is no part of {decision.kind}"
    if alone := [part for part in parts if isinstance(part, odd)]:
        return f"{alone[0]} outside of a width, heads or skip of its structure"
    lost = [
        (rows - part.outputs, columns - part.inputs) if isinstance(part, Sliced) else (0, 0)
        for part, (rows, columns) in zip(parts, shapes, strict=True)
    ]
    closing = [at for at, (_, inputs) in enumerate(lost) if inputs]
    if len(closing) > 1:
        return "one of its weights loses inputs at most"
    return _odd_width(decision, lost, shapes) if isinstance(decision, Width) else ""


def _odd_width(
    width: Width, lost: Sequence[tuple[int, int]], shapes: Sequence[tuple[int, int]]
) -> str:
    """Why weights that lose so many outputs and inputs are not left with these channels."""
    if not any(map(any, lost)):
        return ""
    read = [(own[1], gone) for own, (_, gone) in zip(shapes, lost, strict=True) if gone]
    of, gone = read[0] if read else (0, 0)
    if of - gone != len(width.kept) or width.kept[-1] >= of:
        return (
            f"it keeps {len(width.kept)} channels, the last one number {width.kept[-1]}, and the "
            f"weight that reads them keeps {of - gone} of {of}"
        )
    for outputs, inputs in lost:
        if not inputs and (not outputs or outputs % gone):
            return f"{gone} channels go, and a weight that makes them loses {outputs} outputs"
    return ""


def _chosen(part: Decision) -> str:
    return label if isinstance(label := part.label, str) else str(part)


def _disorder(what: str, kept: Sequence[int]) -> str:
    rising = all(a < b for a, b in pairwise(kept))
    if kept and kept[0] >= 0 and rising:
        return ""
    return f"the {what} that stay must be listed once each, in rising order, and at least one"
