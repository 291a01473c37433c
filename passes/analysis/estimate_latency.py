"""Estimate the time of every site: roofline, tile and wave quantization, tier slow-down.

Before:  layers.0.mlp.up_proj  1024 x 4096 x 14336   1 native
After:   layers.0.mlp.up_proj  1024 x 4096 x 14336   1 native   171.2 us
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core.sites import Workload
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, annotate, note, sites
from gacfx.hardware.latency import estimate_us
from gacfx.hardware.profile import Profile


@register
@dataclass(frozen=True)
class EstimateLatency(GacPass):
    """Forecast microseconds for each site; rule-based until a profile carries measurements."""

    name = "estimate-latency"
    needs = frozenset({Fact.SITES, Fact.TIERS})
    gives = frozenset({Fact.LATENCY})
    required = frozenset({"profile", "workload"})

    profile: Profile | None = given()
    workload: Workload | None = given()

    def run(self, gm: GraphModule) -> bool:
        assert self.profile is not None and self.workload is not None
        for node, site in sites(gm):
            tier = note(node).tier
            assert tier is not None
            found = estimate_us(site, tier, self.profile, self.workload)
            annotate(node, latency_us=found.us)
        return False
