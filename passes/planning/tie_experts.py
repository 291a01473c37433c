"""Hold all experts of a layer to one size: candidates -> rules.

Before:  experts.0.fc1: 512    experts.1.fc1: dense     as the planner likes
After:   experts.0.fc1 and experts.1.fc1 take the same rank, or both stay dense
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gacfx.allocation.ties import tie_experts
from gacfx.core.offered import Offered
from gacfx.core.sites import MatmulSite
from gacfx.graph.gacpass import register
from gacfx.graph.limiting import LimitingPass


@register
@dataclass(frozen=True)
class TieExperts(LimitingPass):
    """One decision for all experts of a layer, so that they can be grouped products."""

    name = "tie-experts"

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        tie_experts(sites, offered)
