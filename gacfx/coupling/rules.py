"""The table of rules: operator -> what it does to the axes of its arguments.

A rule gets a :class:`Call` and the arguments of the operator, with the axes of a tensor in place of
the tensor, and gives the axes of the result::

    @rule("linear")
    def linear(call: Call, x: Axes, weight: Axes, bias: Axes | None = None) -> Axes: ...

It must hold for every size that is not frozen: whatever ties an operator to a literal size or to
the position of an element freezes that axis. A case that a rule does not cover raises
:class:`NotFollowed`; the interpreter then freezes everything that the node touches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch.fx import Node

from gacfx.coupling.terms import Axes, Term, Terms

Value = Axes | list["Axes | None"] | None
"""What a node computes: one tensor, several, or none. A tuple is always the axes of one tensor."""
Rule = Callable[..., Value]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}


class NotFollowed(Exception):  # noqa: N818 - names the situation
    """A rule does not cover this case of its operator."""


@dataclass(frozen=True, slots=True)
class Call:
    """One node under interpretation: what a rule may use besides the arguments."""

    node: Node
    terms: Terms
    inputs: tuple[Axes, ...]
    """Axes of every tensor that goes in."""
    shapes: tuple[tuple[int, ...] | None, ...]
    """Shape of every result; None where a result is no tensor."""
    single: bool
    """The result is one tensor, not a tuple or list."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shapes[0] or ()

    def fresh(self, why: str = "") -> Value:
        """New axes for every result, frozen when ``why`` is given."""
        made = [None if s is None else tuple(Term(n, why) for n in s) for s in self.shapes]
        return made[0] if self.single else made


def rule(*names: str) -> Callable[[R], R]:
    """Register a rule for operators of ``aten``, or of another namespace if the name has a dot.

    The in-place form (``add_`` for ``add``) is covered as well.

    Raises:
        ValueError: a name has a rule already.
    """

    def add(function: R) -> R:
        for name in names:
            full = name if "." in name else f"aten.{name}"
            if full in RULES:
                raise ValueError(f"operator {full} has a rule already: {RULES[full].__name__}")
            RULES[full] = function
        return function

    return add


def replaced(axes: Axes, dim: int, *terms: Term) -> Axes:
    """``axes`` with ``terms`` in the place of axis ``dim``."""
    at = dim % len(axes)
    return (*axes[:at], *terms, *axes[at + 1 :])
