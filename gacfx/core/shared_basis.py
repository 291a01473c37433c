"""A shared basis as a decision: weights of consecutive layers read their inputs by one.

    SharedBasis(rank=64)         y_l = up_l (down x_l) in layers 4 and 5: one down [64, N] for both
      of(0)  layer 4   rank 64, back 0   down [64, N] and up [M, 64]
      of(1)  layer 5   rank 64, back 1   up [M, 64]; the basis lies one layer before

The decision of a group and its parts are of one kind, so that integers alone say where a basis
lies: so many layers before, under the same name. Source: Basis Sharing, arXiv 2410.03765.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gacfx.core.decision import Decision, Gemm, Stored, Work

MOST_LAYERS = 1000
"""That share a basis; a file that says more is refused."""


@dataclass(frozen=True, slots=True)
class SharedBasis(Decision):
    """Several weights [M, N] are up_l [M, r] times one down [r, N]: r (N + n M) parameters."""

    kind: ClassVar[str] = "shared-basis"
    rank: int = field()
    back: int = 0
    """Layers before this weight's that the basis lies in; 0 where it lies here, and of a group."""

    def of(self, at: int) -> "SharedBasis":
        """The first weight holds the basis, the others look back to it."""
        return SharedBasis(self.rank, self.back + at)

    def misfit(self, count: int) -> str:
        """A basis is shared by several, and begins with the first of them."""
        if self.back:
            return f"the basis of a group lies in its first layer, not {self.back} before"
        if 2 <= count <= MOST_LAYERS:
            return ""
        return f"a basis is shared by 2 .. {MOST_LAYERS} weights, not by {count}"

    def odd_shapes(self, shapes: Sequence[tuple[int, int]]) -> str:
        """Why weights of these shapes cannot share it; empty if they can.

        Args:
            shapes: (rows, columns) of the weights of the group.
        """
        if len(set(shapes)) > 1:
            said = " and ".join(f"{rows} x {columns}" for rows, columns in dict.fromkeys(shapes))
            return f"weights of {said} cannot share a basis; they must have one shape"
        (rows, columns), count = shapes[0], len(shapes)
        most = min(count * rows, columns)
        return "" if self.rank <= most else f"rank {self.rank} is outside 1 .. {most}"

    def problem(self, rows: int, columns: int) -> str:
        """The rank is none of a basis of the inputs; it may be larger than the outputs of one."""
        if not 0 <= self.back < MOST_LAYERS:
            return f"its basis lies {self.back} layers before, which is outside 0 .. {MOST_LAYERS}"
        return "" if 1 <= self.rank <= columns else f"rank {self.rank} is outside 1 .. {columns}"

    def params(self, rows: int, columns: int) -> int:
        """Of its own factor, and of the basis where that lies here."""
        return self.rank * (rows if self.back else rows + columns)

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Two products: every layer has inputs of its own."""
        return Gemm(columns, self.rank), Gemm(self.rank, rows, bias)

    def active_params(self, rows: int, columns: int) -> int:
        """Of both factors, wherever the basis lies."""
        return self.rank * (rows + columns)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Its own factor, and the basis where that lies here."""
        up = {"up": Stored((rows, self.rank), "up.weight")}
        return up if self.back else {**self._basis(columns), **up}

    def lender(self, module: str) -> str:
        """The same weight, so many layers before."""
        return layers_before(module, self.back) if self.back else ""

    def borrowed(self, rows: int, columns: int) -> dict[str, Stored]:
        """The basis, where that lies in another layer."""
        del rows
        return self._basis(columns) if self.back else {}

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The rank."""
        return (self.rank,)

    def _basis(self, columns: int) -> dict[str, Stored]:
        return {"down": Stored((self.rank, columns), "down.weight")}

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> tuple[tuple[Decision, ...], str]:
        """Nothing: it is offered to groups."""
        del rows, columns, step
        return (), f"is {cls.kind}, which is for several weights"

    def __str__(self) -> str:
        before = f"{self.back} layer{'s' * (self.back > 1)} before"
        return f"shared rank {self.rank}" + (f", basis {before}" if self.back else "")


def odd_loans(
    decisions: Mapping[str, Decision], shapes: Mapping[str, tuple[int, int]]
) -> tuple[str, str] | None:
    """(module, why) of the first that computes with what no other module holds; None if all do.

    Args:
        decisions: module -> what becomes of its weight.
        shapes: module -> (rows, columns) of it, of all that are named in ``decisions``.
    """
    for module, decision in decisions.items():
        wanted = decision.borrowed(*shapes[module])
        if not wanted:
            continue
        lender = decision.lender(module)
        held = decisions.get(lender)
        stored = {} if held is None else held.tensors(*shapes[lender])
        for name, each in wanted.items():
            if stored.get(name) == each:
                continue
            where = lender or "a layer before it, which its name does not tell,"
            has = "there is no such layer" if held is None else f"that is {held}"
            return module, f"{decision} asks {where} for {name} {list(each.shape)}, and {has}"
    return None


def layers_before(module: str, back: int) -> str:
    """``model.layers.3.mlp.up_proj`` for one of layer 5 and 2 layers; empty where there is none.

    A number at the end of a name is that of a linear, and of no layer.
    """
    parts = module.split(".")
    at = next((place for place, part in enumerate(parts[:-1]) if part.isdigit()), None)
    if at is None or int(parts[at]) < back:
        return ""
    return ".".join([*parts[:at], str(int(parts[at]) - back), *parts[at + 1 :]])


def basis_group(modules: Sequence[str]) -> str:
    """Name of the group of these weights: ``model.layers.4.mlp.up_proj+1``, and that of one more
    layer."""
    return f"{modules[0]}+{len(modules) - 1}"
