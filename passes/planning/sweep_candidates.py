"""List what the planner may choose from: curve -> candidates of every kind and *keep dense*.

Before:  layers.0.self_attn.q_proj  [4096, 4096], break-even rank 2047
After:   layers.0.self_attn.q_proj  8, 16, ..., 2040, pivot 8, ..., pivot 4088, dense
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.allocation.offers import Offers
from gacfx.core.search import Bound, kinds_of
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, forgive, refuse, state, targets


@register
@dataclass(frozen=True)
class SweepCandidates(GacPass):
    """Every legal size that saves parameters, or a window of them, and the dense weight."""

    name = "sweep-candidates"
    needs = frozenset({Fact.CURVES})
    gives = frozenset({Fact.CANDIDATES})
    drops = frozenset({Fact.PLAN})

    align: int = 8
    """Sizes are multiples of this; a profile says what its GPU wants."""
    tp: int = 1
    """Devices that share a rank; each gets a legal part."""
    quant: str = ""
    """Format that the sizes shall be legal for, such as ``fp8``; empty for none."""
    form: str = "auto"
    """How products are stored: pair, pivot, auto for both, or a kind of another package."""
    bounds: tuple[str, ...] = ()
    """``PATTERN=LEAST:MOST``: ranks that matching weights may have."""
    window: int = 0
    """Keep so many candidates of each kind around the wanted size; 0 keeps all."""
    dense: bool = True
    """Always offer the dense weight; otherwise only where the window reaches it."""
    wanted: dict[str, float] | None = given()
    """Module -> rank that the compressor would take by itself, for the window."""

    def run(self, gm: GraphModule) -> bool:
        offers, curves, wanted = self.offers(), state(gm).curves, self.wanted or {}
        assert curves is not None
        offers.check_bounds(curves)
        nodes = {site.name: node for node, site in targets(gm)}
        for node in nodes.values():
            forgive(node, by=self.name)
        offered = {}
        for module, curve in curves.items():
            offered[module], reason = offers.candidates(curve, wanted.get(module))
            if reason and not curve.failed and module in nodes:
                refuse(nodes[module], by=self.name, reason=reason)
        state(gm).offer(offered)
        return False

    def offers(self) -> Offers:
        """What is listed.

        Raises:
            PassError: an option out of its range.
        """
        return Offers(
            align=self.align,
            tp=self.tp,
            quant=self.quant,
            kinds=kinds_of(self.form, pairs_only=self.tp > 1),
            bounds=tuple(map(Bound.parse, self.bounds)),
            window=self.window,
            dense=self.dense,
        )
