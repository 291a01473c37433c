"""Give every target a loss curve: (weight, moments, method) -> loss in nats for every rank.

Before:  layers.0.mlp.up_proj  [14336, 4096]  targeted
After:   layers.0.mlp.up_proj  loss(0) = 1.9, loss(1024) = 0.012, ..., loss(4096) = 0.0 nats/token
"""

from collections.abc import Generator, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

from gacfx.compressors.methods import METHODS
from gacfx.compressors.parallel import decomposed
from gacfx.compressors.protocol import Decomposition
from gacfx.compressors.values import VALUES
from gacfx.core.curves import Curve
from gacfx.core.search import Search
from gacfx.core.sites import Layout, MatmulSite
from gacfx.core.statistics import Statistics
from gacfx.errors import DecompositionFailed
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, refuse, state, target_nodes, target_sites

Ahead = Generator[Decomposition | DecompositionFailed | None, None, None]
"""What workers make of weights, in their order."""
PAPER = "paper"
"""Value model of GAC-v2: importance x parameters, see :mod:`gacfx.compressors.importance`."""


@register
@dataclass(frozen=True)
class MeasureCurves(GacPass):
    """Decompose every target once and read its curve; a failure keeps the weight dense."""

    name = "measure-curves"
    needs = frozenset({Fact.SITES, Fact.TARGETS})
    gives = frozenset({Fact.CURVES})
    drops = frozenset({Fact.CANDIDATES, Fact.PLAN})
    required = frozenset({"statistics", "decompositions"})

    method: str = "gfwsvd"
    """Metric of the factors: svd, asvd, svd-llm, gfwsvd, or another of ``gacfx methods``."""
    value: str = "two-sided"
    """Value model of the curve: two-sided and fisher in nats, relative, paper, or another one."""
    statistics: Statistics | None = given()
    decompositions: MutableMapping[str, Decomposition] | None = given()
    """Module -> decomposition; filled by this pass, so that a second run reuses the work."""
    others: dict[str, dict[str, Curve]] | None = given()
    """Value model -> curves: tables to fill on the way, while a decomposition is at hand."""
    measured: Mapping[str, NDArray[np.float64]] | None = given()
    """Module -> losses at every rank, for a value model that is measured on text."""
    executor: Executor | None = given()
    """Whose workers decompose the weights, see :mod:`gacfx.compressors.parallel`; None for this
    process."""

    def run(self, gm: GraphModule) -> bool:
        assert self.statistics is not None and self.decompositions is not None
        check_method(self.method, self.value)
        known, curves = self.decompositions, dict[str, Curve]()
        tables = {**(self.others or {}), self.value: curves}
        makes_ranks = METHODS.find(self.method).makes_ranks
        sites, nodes = target_sites(gm).values(), target_nodes(gm)
        missing = [site for site in sites if makes_ranks and site.name not in known]
        with closing(self._ahead(gm, missing)) as ahead:
            for site in sites:
                if not makes_ranks:
                    reason = f"{self.method} makes no ranks"
                    for value, table in tables.items():
                        table[site.name] = failed_curve(site, value, reason)
                    continue
                measured = self._measured(gm, site, ahead, list(tables))
                for value, table in tables.items():
                    table[site.name] = measured[value]
                if curves[site.name].failed:
                    for node in nodes[site.name]:
                        refuse(node, by=self.name, reason=curves[site.name].failed)
        about = state(gm)
        about.curves, about.structure_curves = curves, ()
        about.shared_curves, about.unshared = (), {}
        return False

    def _measured(
        self, gm: GraphModule, site: MatmulSite, ahead: Ahead, values: Sequence[str]
    ) -> dict[str, Curve]:
        """Value model -> curve of one weight, whose decomposition is in memory meanwhile."""
        found: Decomposition | DecompositionFailed
        try:
            found = self._found(gm, site, ahead)
        except DecompositionFailed as error:
            found = error
        losses = (self.measured or {}).get(site.name)
        return {
            value: curve_of(found, site, value, losses if VALUES.find(value).on_text else None)
            for value in values
        }

    def _found(self, gm: GraphModule, site: MatmulSite, ahead: Ahead) -> Decomposition:
        """The decomposition of one weight, known or made."""
        assert self.decompositions is not None
        if site.name in self.decompositions:
            return self.decompositions[site.name]
        made = self._made(gm, site, next(ahead, None))
        self.decompositions[site.name] = made
        return made

    def _ahead(self, gm: GraphModule, sites: list[MatmulSite]) -> Ahead:
        """What workers make of the weights of these sites, in their order."""
        if self.executor is None:
            return
        assert self.statistics is not None
        by_name = {site.name: site for site in sites}
        yield from decomposed(
            self.executor,
            METHODS.find(self.method),
            list(by_name),
            lambda name: dense_weight(gm, by_name[name]),
            self.statistics.moments,
            state(gm).heads,
        )

    def _made(
        self, gm: GraphModule, site: MatmulSite, found: Decomposition | DecompositionFailed | None
    ) -> Decomposition:
        """What a worker found, or what is found here if it found nothing."""
        if isinstance(found, DecompositionFailed):
            raise found
        return self.decompose(gm, site) if found is None else found

    def decompose(self, gm: GraphModule, site: MatmulSite) -> Decomposition:
        """The weight of one site decomposed in the metric of the method."""
        assert self.statistics is not None
        moments = self.statistics.moments.get(site.name)
        if moments is None:
            raise DecompositionFailed(site.name, "no calibration statistics")
        method = METHODS.find(self.method).for_heads(state(gm).heads.get(site.name, 0))
        return method.decompose(dense_weight(gm, site), moments, site.name)


def check_method(method: str, value: str = "two-sided", search: Search | None = None) -> None:
    """Nothing when there are a method and a value model of these names, and it makes what is asked.

    Raises:
        PipelineError: there is none; lists those that there are. Or the method cannot make what a
            search asks for.
    """
    found = METHODS.find(method)
    VALUES.find(value)
    if search is not None:
        found.offered(search)


def curve_of(
    found: Decomposition | DecompositionFailed,
    site: MatmulSite,
    value: str,
    measured: NDArray[np.float64] | None = None,
) -> Curve:
    """The curve of a decomposition under a value model; one that offers nothing where it failed.

    Args:
        found: the decomposition, or why there is none.
        site: of the weight.
        value: name of the value model.
        measured: [S + 1] losses, for one that is measured on text.
    """
    if isinstance(found, DecompositionFailed):
        return failed_curve(site, value, found.reason)
    try:
        return found.curve(value) if measured is None else found.curve(value, measured)
    except DecompositionFailed as error:
        return failed_curve(site, value, error.reason)


def failed_curve(site: MatmulSite, value: str, reason: str) -> Curve:
    """A curve that offers nothing but the dense weight."""
    return Curve(site.name, site.n.times, site.k.times, np.zeros(0), value, failed=reason)


def dense_weight(gm: GraphModule, site: MatmulSite) -> Tensor:
    """The weight as [outputs, inputs], whatever its layout."""
    assert site.weight is not None
    weight = gm.get_parameter(site.weight).detach()
    return weight.T if site.layout is Layout.CONV1D else weight
