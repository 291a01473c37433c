"""Decisions: what becomes of a dense weight. One small frozen value for each kind.

A decision holds integers only, and other decisions. Asked with the shape [rows, columns] of the
dense weight, it says what it keeps, what it runs and what it stores, so that planning, forecasts,
reports and files need to know no kind by name. Its other half, the module and the graph nodes that
carry it out, needs torch and is named by a string in the table of all kinds,
:mod:`gacfx.core.kinds`. Those for several weights at once stand in :mod:`gacfx.core.pruning`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Gemm:
    """One matrix product for every token: [tokens, k] x [k, n]."""

    k: int
    n: int
    bias: bool = False
    count: int = 1
    """Products of this shape that are one batched call."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One kernel that reads and writes ``elements`` numbers for every token: a gather, a sum.

    torch.compile makes one kernel of those that follow each other.
    """

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
    """What becomes of one weight, or of a group of weights, which :meth:`of` then tells apart.

    Subclasses are frozen dataclasses of integers, of tuples of them, and of further decisions.
    """

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

    def of(self, at: int) -> "Decision":
        """The part that one weight of a group has; by default all weights do the same.

        Args:
            at: place of the weight in the group.
        """
        del at
        return self

    def misfit(self, count: int) -> str:
        """Why a group of ``count`` weights cannot have it; empty if it can."""
        del count
        return ""

    @abstractmethod
    def problem(self, rows: int, columns: int) -> str:
        """Why a weight of this shape cannot have it; empty if it can."""

    @abstractmethod
    def params(self, rows: int, columns: int) -> int:
        """Parameters that remain."""

    def active_params(self, rows: int, columns: int) -> int:
        """Parameters that a token is multiplied with; all of them unless a kind chooses some."""
        return self.params(rows, columns)

    @abstractmethod
    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """What runs for every token, in order; each entry is one kernel in eager mode."""

    @abstractmethod
    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Name -> what is stored in place of the weight; empty for a weight that stays."""

    def lender(self, module: str) -> str:
        """Name of the module whose tensors it computes with beside its own; empty for none.

        Args:
            module: name of the one that the weight is of.
        """
        del module
        return ""

    def borrowed(self, rows: int, columns: int) -> dict[str, Stored]:
        """Name -> what it computes with and its lender stores."""
        del rows, columns
        return {}

    @abstractmethod
    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The dims that it makes, which should be aligned."""

    def latents(self, rows: int) -> int:
        """Numbers for each token that its outputs can be made of again, group by group.

        Args:
            rows: outputs of the weight; as many, unless a kind is made for such a cache.
        """
        return rows

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
        return (), f"is {cls.kind}"

    @classmethod
    def offers_in_groups(
        cls, rows: int, columns: int, groups: int, step: int
    ) -> "tuple[tuple[Decision, ...], str]":
        """The same for a weight whose outputs a method takes in groups; most kinds know of none.

        Args:
            rows: outputs of the weight.
            columns: inputs of the weight.
            groups: of its outputs; 0 where the method has none.
            step: every dim that a candidate makes is a multiple of this.
        """
        del groups
        return cls.offers(rows, columns, step)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Plans are read by pydantic, and decisions in them by the table of their kinds."""
        from pydantic_core import core_schema

        from gacfx.core.kinds import read_decision

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


@dataclass(frozen=True, slots=True)
class PivotInOrder(Pivot):
    """The same product with r pivots among its inputs, which come first: r (rows + columns - r).

    Nothing is gathered: the layers that make the inputs give them in this order. It is never
    offered; a pivot becomes one where the model allows it (:mod:`gacfx.modules.in_order`).
    """

    kind: ClassVar[str] = "pivot-in-order"

    @property
    def label(self) -> int | str:
        """That of the candidate that it was chosen as."""
        return f"pivot {self.rank}"

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Two products and a sum."""
        r = self.rank
        return Gemm(columns - r, r), Copy(r), Gemm(r, rows, bias)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """The product and the coefficients."""
        r = self.rank
        return {
            "product": Stored((rows, r), "product.weight"),
            "coefficients": Stored((r, columns - r), "coefficients.weight"),
        }

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The rank, and what is left of the inputs."""
        return self.rank, columns - self.rank

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> tuple[tuple[Decision, ...], str]:
        """Nothing: neighbours decide."""
        del rows, columns, step
        return (), f"is {cls.kind} from the start: pivots become it; take form 'pivot'"

    def __str__(self) -> str:
        return f"pivot-in-order {self.rank}"


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
