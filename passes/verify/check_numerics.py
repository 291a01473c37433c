"""Check that the graph computes what a reference computes, on fresh random inputs.

Before:  a rewritten graph, and the module that the same plan was applied to
After:   the same, or PassError: relative error 3.1e-02 against the reference, allowed 1e-05
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register


@register
@dataclass(frozen=True)
class CheckNumerics(GacPass):
    """Run graph and reference on the same random inputs and compare the first output."""

    name = "check-numerics"
    required = frozenset({"reference", "inputs"})

    tolerance: float = 1e-5
    """Largest allowed norm of the difference, relative to the norm of the reference."""
    reference: Callable[..., Any] | None = given()
    inputs: dict[str, Any] | None = given()
    """Keyword arguments for both, of the shapes that the graph was captured with."""

    def run(self, gm: GraphModule) -> bool:
        return False

    def verify(self, gm: GraphModule) -> None:
        assert self.reference is not None and self.inputs is not None
        if any(p.is_meta for p in gm.parameters()):
            raise PassError(f"{self.name}: the graph has no weights (meta device)")
        with torch.no_grad():
            ours, theirs = first(gm(**self.inputs)), first(self.reference(**self.inputs))
        if ours.shape != theirs.shape:
            raise PassError(
                f"{self.name}: the graph gives {list(ours.shape)}, the reference "
                f"{list(theirs.shape)}; are they of one model and of the same inputs?"
            )
        if unlike := unlike_infinities(ours, theirs):
            raise PassError(
                f"{self.name}: {unlike} of {ours.numel()} numbers are infinite on one side and not "
                "on the other, so that no tolerance covers them"
            )
        error = relative_error(ours, theirs)
        if not error <= self.tolerance:
            raise PassError(
                f"{self.name}: relative error {error:.1e} against the reference, "
                f"allowed {self.tolerance:.0e}"
            )


def first(output: Any) -> Tensor:
    """The first tensor of a model's output, in float64."""
    found = output if isinstance(output, Tensor) else output[0]
    assert isinstance(found, Tensor)
    return found.double()


def unlike_infinities(ours: Tensor, theirs: Tensor) -> int:
    """How many numbers are infinite on one side and something else, but no NaN, on the other."""
    infinite = ours.isinf() | theirs.isinf()
    return int((infinite & (ours != theirs) & ~ours.isnan() & ~theirs.isnan()).sum())


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """||ours - theirs|| / ||theirs|| of all numbers but equal infinities: masked vocabularies.

    NaN when either has a NaN, which no tolerance allows; 0 when both are 0.
    """
    same = ours.isinf() & (ours == theirs)
    ours, theirs = ours.masked_fill(same, 0.0), theirs.masked_fill(same, 0.0)
    gap = float((ours - theirs).norm())
    return gap and gap / max(float(theirs.norm()), torch.finfo(theirs.dtype).tiny)
