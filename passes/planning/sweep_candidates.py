"""List what the planner may choose from: curve -> candidates of every kind and *keep dense*.

Before:  layers.0.self_attn.q_proj  [4096, 4096], break-even rank 2047
After:   layers.0.self_attn.q_proj  8, 16, ..., 2040, pivot 8, ..., pivot 4088, dense
         layers.0.mlp  width 8, ..., width 14336: pivot 8, dense, dense, ...   with prune=both
"""

from dataclasses import dataclass
from typing import get_args

from torch.fx import GraphModule

from gacfx.allocation.allocate import offer
from gacfx.allocation.joint import Joint
from gacfx.allocation.offers import Offers
from gacfx.core.curves import Curve
from gacfx.core.search import COARSE, Bound, Prune, kinds_of
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.structure_curves import StructureCurve
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, forgive, refuse, state, target_nodes, targets


@register
@dataclass(frozen=True)
class SweepCandidates(GacPass):
    """Every legal size of a weight or structure that saves parameters, and the dense weight."""

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
    prune: str = "none"
    """What may become of coupled structures, as a search has it; see ``measure-structures``."""
    limited: bool = False
    """There will be limits: keep what is beaten in parameters and loss, and may be faster."""
    wanted: dict[str, float] | None = given()
    """Module -> rank that the compressor would take by itself, for the window."""

    def run(self, gm: GraphModule) -> bool:
        offers, about = self.offers(), state(gm)
        curves = about.curves or {}
        if offers.prune != "none" and not about.structure_curves:
            raise PassError(
                f"{self.name}: prune={self.prune} needs curves of structures; run "
                "measure-structures first"
            )
        nodes = target_nodes(gm)
        for node, _ in targets(gm):
            forgive(node, by=self.name)
        known = _Known(curves, about.structure_curves, about.shared_curves, about.unshared)
        case = offer(known, offers, self.wanted, limited=self.limited)
        for module, reason in case.reasons.items():
            for node in () if curves[module].failed else nodes.get(module, ()):
                refuse(node, by=self.name, reason=reason)
        assert case.offered.candidates is not None
        about.offer(case.offered.candidates, case.offered.members)
        joints = {name: each for name, each in case.curves.items() if isinstance(each, Joint)}
        about.joints = joints if joints or offers.prune != "none" else None
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
            kinds=kinds_of(self.form, pairs_only=self.tp > 1 or self.quant in COARSE),
            bounds=tuple(map(Bound.parse, self.bounds)),
            window=self.window,
            dense=self.dense,
            prune=self._prune(),
        )

    def _prune(self) -> Prune:
        known = tuple(name for name in get_args(Prune) if name != "auto")
        if self.prune not in known:
            raise PassError(f"{self.name}: no prune {self.prune!r}; known: {', '.join(known)}")
        return self.prune  # type: ignore[return-value]


@dataclass(frozen=True)
class _Known:
    """What the state of a graph knows of its weights and structures."""

    curves: dict[str, Curve]
    structures: tuple[StructureCurve, ...]
    shared: tuple[SharedCurve, ...]
    unshared: dict[str, str]
