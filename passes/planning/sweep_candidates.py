"""List the sizes that the planner may choose from: curve -> aligned ranks and *keep dense*.

Before:  layers.0.self_attn.q_proj  [4096, 4096], break-even rank 2047
After:   layers.0.self_attn.q_proj  8, 16, ..., 2040, dense
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core.curves import Curve
from gacfx.core.gacpass import GacPass, register
from gacfx.core.notes import Fact, state
from gacfx.errors import PassError


@register
@dataclass(frozen=True)
class SweepCandidates(GacPass):
    """Every multiple of ``align`` below break-even, and the dense weight, for every curve."""

    name = "sweep-candidates"
    needs = frozenset({Fact.CURVES})
    gives = frozenset({Fact.CANDIDATES})
    drops = frozenset({Fact.PLAN})

    align: int = 8
    """Ranks are multiples of this; a profile says what its GPU wants."""

    def run(self, gm: GraphModule) -> bool:
        if self.align < 1:
            raise PassError(f"{self.name}: align must be at least 1, not {self.align}")
        curves = state(gm).curves
        assert curves is not None
        state(gm).candidates = {m: candidates(c, self.align) for m, c in curves.items()}
        return False


def candidates(curve: Curve, align: int) -> tuple[int | None, ...]:
    """Aligned ranks below break-even, then None for *keep dense*; only that if curves failed."""
    if curve.failed:
        return (None,)
    top = min(curve.break_even, curve.rows, curve.columns)
    return (*range(align, top + 1, align), None)
