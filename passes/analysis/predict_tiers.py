"""Predict the kernel tier of every site: (site, profile, workload) -> tier.

Before:  layers.0.self_attn.q_proj.down  1024 x 4096 x 1107
After:   layers.0.self_attn.q_proj.down  1024 x 4096 x 1107   3 align1  N=1107 %8==3
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core.sites import Workload
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, annotate, sites
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import Profile


@register
@dataclass(frozen=True)
class PredictTiers(GacPass):
    """Predict tiers from rules, or from the profile's measured table where it has the shape."""

    name = "predict-tiers"
    needs = frozenset({Fact.SITES})
    gives = frozenset({Fact.TIERS})
    drops = frozenset({Fact.LATENCY})
    required = frozenset({"profile", "workload"})

    measured: bool = True
    """Prefer measured entries of the profile to its rules."""
    profile: Profile | None = given()
    workload: Workload | None = given()

    def run(self, gm: GraphModule) -> bool:
        assert self.profile is not None and self.workload is not None
        for node, site in sites(gm):
            tier = predict(site, self.profile, self.workload, measured=self.measured)
            annotate(node, tier=tier)
        return False
