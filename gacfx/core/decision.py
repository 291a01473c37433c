"""Decisions: what becomes of a dense weight. One small value for each kind, one table of them all.

A decision holds integers only. Asked with the shape [rows, columns] of the dense weight, it says
what it keeps, what it runs and what it stores, so that planning, forecasts, reports and files need
to know no kind by name. Its other half, the module and the graph nodes that carry it out, needs
torch and is named in the table by a string (:class:`Kind`).

A new kind is a value like those below, a carrier like ``gacfx/modules/low_rank.py``, and one line
in :data:`BUILT_IN`; a kind from another package is found by the entry point ``gacfx.decisions``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import entry_points
from typing import Any, ClassVar

from gacfx.core.names import printable
from gacfx.errors import PlanError


@dataclass(frozen=True, slots=True)
class Gemm:
    """One matrix product for every token: [tokens, k] x [k, n]."""

    k: int
    n: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """One kernel that reads and writes ``elements`` numbers for every token: a gather, a sum."""

    elements: int


Work = tuple[Gemm | Copy, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that a decision stores."""

    shape: tuple[int, ...]
    parameter: str
    """Name inside the module that carries the decision out, such as ``down.weight``."""
    integer: bool = False
    """int32 and a buffer; otherwise a parameter in the dtype of the weight."""


class Decision(ABC):
    """What becomes of one weight. Subclasses are frozen dataclasses of integers."""

    __slots__ = ()
    kind: ClassVar[str]
    """Name in plans and checkpoints."""

    @property
    def rank(self) -> int | None:
        """Rank of the product that stands for the weight; None where that is no product."""
        return None

    @property
    def label(self) -> int | str:
        """Short, and unique among the candidates of a weight; a bare number is a pair's rank."""
        return str(self)

    @property
    def is_dense(self) -> bool:
        """The weight stays as it is."""
        return False

    def of(self, module: str) -> "Decision":
        """The part that one weight of a group has; by default all weights do the same."""
        del module
        return self

    @abstractmethod
    def problem(self, rows: int, columns: int) -> str:
        """Why a weight of this shape cannot have it; empty if it can."""

    @abstractmethod
    def params(self, rows: int, columns: int) -> int:
        """Parameters that remain."""

    @abstractmethod
    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """What runs for every token, in order; each entry is one kernel in eager mode."""

    @abstractmethod
    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Name -> what is stored in place of the weight; empty for a weight that stays."""

    @abstractmethod
    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The dims that it makes, which should be aligned."""

    def odd_integers(self, name: str, found: Sequence[int]) -> str:
        """What is wrong with the values of an integer tensor; empty where nothing is.

        Args:
            name: of a tensor that :meth:`tensors` has as integers.
            found: its values, of the shape that was asked for, flat.
        """
        del name, found
        return ""

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> "tuple[tuple[Decision, ...], str]":
        """(candidates for a weight of this shape, cheapest first; why there are none, or empty).

        Args:
            rows: outputs of the weight.
            columns: inputs of the weight.
            step: every dim that a candidate makes is a multiple of this.
        """
        del rows, columns, step
        return (), "is of this kind"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Plans are read by pydantic, and decisions in them by the table of their kinds."""
        from pydantic_core import core_schema

        del source, handler
        return core_schema.no_info_plain_validator_function(read_decision)


@dataclass(frozen=True, slots=True)
class Dense(Decision):
    """The weight stays as it is."""

    kind: ClassVar[str] = "dense"

    @property
    def is_dense(self) -> bool:
        """Always."""
        return True

    def problem(self, rows: int, columns: int) -> str:
        """Empty: every weight can stay."""
        return ""

    def params(self, rows: int, columns: int) -> int:
        """All of them."""
        return rows * columns

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """One product."""
        return (Gemm(columns, rows, bias),)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Nothing in its place."""
        return {}

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """None is new."""
        return ()

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True, slots=True)
class _OfRank(Decision):
    """A product of rank ``r``, stored in some form."""

    rank: int = field()

    def problem(self, rows: int, columns: int) -> str:
        """The rank is no rank of the weight."""
        most = min(rows, columns)
        return "" if 1 <= self.rank <= most else f"rank {self.rank} is outside 1 .. {most}"


@dataclass(frozen=True, slots=True)
class LowRank(_OfRank):
    """Two factors, up [rows, r] times down [r, columns]: r (rows + columns) parameters."""

    kind: ClassVar[str] = "low-rank"

    @property
    def label(self) -> int | str:
        """The rank."""
        return self.rank

    def params(self, rows: int, columns: int) -> int:
        """Of both factors."""
        return self.rank * (rows + columns)

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Two products."""
        return Gemm(columns, self.rank), Gemm(self.rank, rows, bias)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Both factors."""
        return {
            "down": Stored((self.rank, columns), "down.weight"),
            "up": Stored((rows, self.rank), "up.weight"),
        }

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The rank."""
        return (self.rank,)

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> tuple[tuple[Decision, ...], str]:
        """Multiples of the step below break-even, where the factors are smaller than the weight."""
        top = min(break_even(rows, columns), rows, columns)
        ranks = range(step, top + 1, step)
        return tuple(map(cls, ranks)), "" if ranks else "is below break-even"

    def __str__(self) -> str:
        return f"rank {self.rank}"


@dataclass(frozen=True, slots=True)
class Pivot(_OfRank):
    """The same product with r pivots on its short side: r (rows + columns - r) parameters.

    Of a matrix of rank r, all rows are combinations of r of them. Stored are those r rows (the
    product), the coefficients of the others, and where each row goes (the order). Where the weight
    has more rows than columns, the same is done with its columns. Every rank below full saves
    parameters. Sources: PIFA (ICML 2025), arXiv 2512.03062.
    """

    kind: ClassVar[str] = "pivot"

    def problem(self, rows: int, columns: int) -> str:
        """The rank is no rank of the weight, or nothing would be left to combine."""
        most = min(rows, columns) - 1
        return "" if 1 <= self.rank <= most else f"pivot rank {self.rank} is outside 1 .. {most}"

    def params(self, rows: int, columns: int) -> int:
        """Of the product and the coefficients; the order is no parameter."""
        return self.rank * (rows + columns - self.rank)

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Two products; a join and a gather of the outputs, or a gather of the inputs and a sum."""
        r = self.rank
        if on_outputs(rows, columns):
            tail = (Copy(rows),) if bias else ()
            return Gemm(columns, r), Gemm(r, rows - r), Copy(rows), Copy(rows), *tail
        return Copy(columns), Gemm(columns - r, r), Copy(r), Gemm(r, rows, bias)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """The product, the coefficients and the order."""
        r = self.rank
        if on_outputs(rows, columns):
            product, coefficients, order = (r, columns), (rows - r, r), rows
        else:
            product, coefficients, order = (rows, r), (r, columns - r), columns
        return {
            "product": Stored(product, "product.weight"),
            "coefficients": Stored(coefficients, "coefficients.weight"),
            "order": Stored((order,), "order", integer=True),
        }

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The rank, and what is left of the short side."""
        return self.rank, min(rows, columns) - self.rank

    def odd_integers(self, name: str, found: Sequence[int]) -> str:
        """The order names every feature once."""
        del name
        return "" if sorted(found) == list(range(len(found))) else "is no order of the features"

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> tuple[tuple[Decision, ...], str]:
        """Multiples of the step that leave a multiple of it."""
        short = min(rows, columns)
        if short % step:
            return (), f"leaves an aligned rest of the short side, {short}"
        ranks = range(step, short, step)
        return tuple(map(cls, ranks)), "" if ranks else "is below full rank"

    def __str__(self) -> str:
        return f"pivot {self.rank}"


def of_rank(rank: int | None) -> Decision:
    """A pair of factors, or the dense weight for None."""
    return DENSE if rank is None else LowRank(rank)


def on_outputs(rows: int, columns: int) -> bool:
    """Pivots are rows of the weight: the short side is the one that is gathered, and whose basis
    is well conditioned whatever the weight is."""
    return rows <= columns


def break_even(rows: int, columns: int) -> int:
    """Largest rank of a pair that has fewer parameters than the dense weight."""
    return (rows * columns - 1) // (rows + columns)


DENSE = Dense()


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
        PlanError: an entry point brings no kind, or one whose name is taken.
    """
    for found in entry_points(group=ENTRY_POINTS):
        if found.name not in _KINDS:
            kind = found.load()
            if not isinstance(kind, Kind) or kind.name != found.name:
                raise PlanError(
                    f"entry point {found.name!r} of {ENTRY_POINTS} is no kind of that name; give "
                    "a gacfx.core.decision.Kind"
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
