"""Give weights that share a basis one curve: (weights, moments, method) -> loss for every rank.

Before:  layers.0.mlp.up_proj, layers.1.mlp.up_proj   each with a curve of its own
After:   layers.0.mlp.up_proj+1   loss(0) = 3.1, ..., loss(4096) = 0.0 nats/token, of both together
"""

from collections.abc import MutableMapping
from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.compressors.basis_sharing import BasisSharing, Candidate, Grouping
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import Compressor, Statistic
from gacfx.compressors.shared import SharedSvd
from gacfx.compressors.values import VALUES
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.statistics import Statistics
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import DecompositionFailed
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, state, target_sites
from gacfx.passes.planning.measure_curves import dense_weight
from gacfx.passes.planning.read_graph import refused_sites


@register
@dataclass(frozen=True)
class MeasureBases(GacPass):
    """Decompose the weights of each group together; where that fails, each keeps a basis of its
    own."""

    name = "measure-bases"
    needs = frozenset({Fact.SITES, Fact.TARGETS, Fact.CURVES})
    drops = frozenset({Fact.CANDIDATES, Fact.PLAN})
    required = frozenset({"statistics"})

    method: str = "basis-sharing"
    """One that shares bases; with any other there are no groups."""
    value: str = "two-sided"
    """Value model: two-sided, fisher or relative."""
    statistics: Statistics | None = given()
    bases: MutableMapping[str, SharedSvd] | None = given()
    """Group -> decomposition; filled by this pass if it is given, so that factors need none."""

    def run(self, gm: GraphModule) -> bool:
        assert self.statistics is not None
        grouping = grouping_of(gm, METHODS.find(self.method))
        found, reasons = list[SharedCurve](), dict(grouping.reasons)
        for name, members in grouping.groups.items():
            try:
                made = self.decomposed(gm, name, members)
                found.append(VALUES.find(self.value).shared_curve(made))
            except DecompositionFailed as error:
                reasons.update(dict.fromkeys(members, error.reason))
        state(gm).shared_curves, state(gm).unshared = tuple(found), reasons
        return False

    def decomposed(self, gm: GraphModule, name: str, members: tuple[str, ...]) -> SharedSvd:
        """The weights of a group by one basis.

        Raises:
            DecompositionFailed: they cannot be.
        """
        known = {} if self.bases is None else self.bases
        if name not in known:
            method, sites = METHODS.find(self.method), target_sites(gm)
            assert isinstance(method, BasisSharing) and self.statistics is not None
            weights = {module: dense_weight(gm, sites[module]) for module in members}
            made = method.decompose_shared(name, weights, self.statistics.moments)
            if self.bases is None:
                return made
            self.bases[name] = made
        return known[name]


def grouping_of(gm: GraphModule, method: Compressor) -> Grouping:
    """Which targets of a graph share a basis under a method; none under most."""
    if not isinstance(method, BasisSharing) or method.shares == 1:
        return Grouping()
    return method.group(_candidates(gm), refused_sites(gm), _closing(gm))


def long_inputs(gm: GraphModule, method: Compressor) -> frozenset[str]:
    """Modules whose input moment is wanted although it is that of the long side.

    Those of any number of layers that may share a basis, so that statistics do for all of them.
    """
    if Statistic.WHOLE_INPUT_MOMENT not in method.needs or method.shares == 1:
        return frozenset()
    known, closing = _candidates(gm), _closing(gm)
    return frozenset(
        module
        for module, each in known.items()
        if each.rows <= each.columns and not each.routed and module not in closing
    )


def _candidates(gm: GraphModule) -> dict[str, Candidate]:
    """Module -> targeted weight, in the order of the graph."""
    return {
        site.name: Candidate(site.n.times, site.k.times, site.dtype, site.m.per > 1)
        for site in target_sites(gm).values()
    }


def _closing(gm: GraphModule) -> set[str]:
    """Modules that give what their block gives: o_proj, down_proj."""
    return {each.module for one in coupled_structures(gm) for each in one.members if each.closes}
