"""Hold all layers of one kind of projection to one size: candidates -> rules.

Before:  layers.0.mlp.up_proj: 512    layers.1.mlp.up_proj: dense     as the planner likes
After:   layers.0.mlp.up_proj and layers.1.mlp.up_proj take the same rank, or both stay dense
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gacfx.allocation.ties import tie_layers
from gacfx.core.offered import Offered
from gacfx.core.sites import MatmulSite
from gacfx.graph.gacpass import register
from gacfx.graph.limiting import LimitingPass


@register
@dataclass(frozen=True)
class TieLayers(LimitingPass):
    """One decision for all layers: weights whose names differ by layer numbers, of one shape."""

    name = "tie-layers"

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        tie_layers(sites, offered)
