"""Padding as decisions: a weight grows to a size that kernels like, and computes the same.

    Padded(outputs, inputs)          one weight, with rows and columns of zeros
    PaddedHeads(head_dim, layout)    an attention whose heads are longer

Added channels of an MLP are read by columns of zeros; added numbers of a query, key or value are
zeros, which add nothing to a score and nothing to the sum of values. A rotary embedding turns pairs
of numbers, so where it turns a whole head, its pairs must stay together:

    end      a a a b b b 0 0         nothing turns, or only the first numbers of a head
    halves   a a a 0 b b b 0         number i turns with number i + d/2
    pairs    a b a b a b 0 0         number 2i turns with number 2i + 1; the table of angles grows
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from gacfx.core.decision import Decision, Gemm, Stored, Work

Layout = Literal["end", "halves", "pairs"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ZERO = -1
"""In a list of old positions: a position that is new, and zero."""
MAX_HEAD_DIM = 2**16


@dataclass(frozen=True, slots=True)
class Padded(Decision):
    """Rows or columns of zeros are added to the weight."""

    kind: ClassVar[str] = "padded"
    outputs: int
    """Rows of the larger weight."""
    inputs: int
    """Columns of the larger weight."""

    def problem(self, rows: int, columns: int) -> str:
        """The weight is larger already, or as large."""
        for what, found, of in (("outputs", self.outputs, rows), ("inputs", self.inputs, columns)):
            if found < of:
                return f"{found} {what} are fewer than {of}"
        return "" if (self.outputs, self.inputs) != (rows, columns) else "nothing is added"

    def params(self, rows: int, columns: int) -> int:
        """Of the larger weight, zeros included."""
        del rows, columns
        return self.outputs * self.inputs

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """One product."""
        del rows, columns
        return (Gemm(self.inputs, self.outputs, bias),)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """The larger weight."""
        del rows, columns
        return {"weight": Stored((self.outputs, self.inputs), "weight")}

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """Those that are new."""
        both = ((self.outputs, rows), (self.inputs, columns))
        return tuple(new for new, old in both if new != old)

    def __str__(self) -> str:
        return f"padded to {self.outputs} x {self.inputs}"


@dataclass(frozen=True, slots=True)
class PaddedHeads:
    """Every query, key and value of an attention has more numbers, those added are zero."""

    kind: ClassVar[str] = "padded-heads"
    head_dim: int
    """Numbers of each from now on."""
    layout: Layout

    @property
    def problem(self) -> str:
        """Why no attention can be so; empty if one can."""
        if not 1 <= self.head_dim <= MAX_HEAD_DIM:
            return f"head_dim {self.head_dim} is outside 1 .. {MAX_HEAD_DIM}"
        return "" if self.layout in LAYOUTS else f"layout must be one of {', '.join(LAYOUTS)}"

    def misfit(self, head_dim: int) -> str:
        """Why heads of this length cannot become these; empty if they can."""
        if self.head_dim <= head_dim:
            return f"heads of {head_dim} cannot be padded to {self.head_dim}"
        if self.layout != "end" and (self.head_dim % 2 or head_dim % 2):
            return f"heads of {head_dim} that turn in {self.layout} cannot have {self.head_dim}"
        return ""

    def positions(self, head_dim: int) -> tuple[int, ...]:
        """Old position, or ``ZERO``, of each number of a head.

        Args:
            head_dim: length of a head before; one that :meth:`misfit` takes.
        """
        parts = 2 if self.layout == "halves" else 1
        old, new = head_dim // parts, self.head_dim // parts
        return tuple(
            part * old + at if at < old else ZERO for part in range(parts) for at in range(new)
        )

    def __str__(self) -> str:
        return f"heads of {self.head_dim}"
