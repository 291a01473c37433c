"""Leave nothing but keys and values to be compressed, and say of each how many heads it has.

Before:  layers.0.self_attn.k_proj  targeted     layers.0.mlp.up_proj  targeted
After:   layers.0.self_attn.k_proj  targeted, 8 heads
         layers.0.mlp.up_proj       refused: makes neither keys nor values of an attention
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.coupling.key_values import key_values
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, annotate, forgive, refuse, state, targets


@register
@dataclass(frozen=True)
class OnlyKeysAndValues(GacPass):
    """Refuse every target that does not make keys or values alone, for methods that ask for it."""

    name = "only-keys-and-values"
    needs = frozenset({Fact.SITES, Fact.TARGETS})
    drops = frozenset({Fact.CURVES, Fact.CANDIDATES, Fact.PLAN})

    def run(self, gm: GraphModule) -> bool:
        found = key_values(gm)
        heads = dict[str, int]()
        for node, site in list(targets(gm)):
            forgive(node, by=self.name)
            if reason := found.reason(site.name):
                annotate(node, targeted=False)
                refuse(node, by=self.name, reason=reason)
            else:
                heads[site.name] = found.heads[site.name]
        state(gm).heads = heads
        return False
