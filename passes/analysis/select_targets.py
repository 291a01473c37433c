"""Decide which weights may be compressed, and say why the others may not.

Before:  model.layers.0.self_attn.q_proj   lm_head
After:   model.layers.0.self_attn.q_proj   targeted
         lm_head                           refused: outside the repeated layers
"""

from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch.fx import GraphModule, Node

from gacfx.core.sites import Layout, MatmulSite
from gacfx.errors import PassError
from gacfx.graph import ops
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.layers import in_layer, layers_of
from gacfx.graph.notes import Fact, annotate, forgive, matmuls, note, refuse
from gacfx.graph.weights import shared_weights, weight_uses
from gacfx.modules.make import carrier_names


@register
@dataclass(frozen=True)
class SelectTargets(GacPass):
    """Mark the linears of the repeated layers as targets; every other site gets a reason."""

    name = "select-targets"
    needs = frozenset({Fact.SITES})
    gives = frozenset({Fact.TARGETS})
    drops = frozenset({Fact.CURVES, Fact.CANDIDATES, Fact.PLAN})

    skip: tuple[str, ...] = ()
    """Patterns of module names to leave alone, for example ``*.down_proj``."""

    def run(self, gm: GraphModule) -> bool:
        shared, layers, repeated = shared_weights(gm), layers_of(gm), unlike_uses(gm)
        carriers = carrier_names()
        for pattern in self.skip:
            if not any(fnmatchcase(site.name, pattern) for _, site in matmuls(gm)):
                raise PassError(f"{self.name}: skip={pattern} matches no matmul of the graph")
        for node, site in matmuls(gm):
            forgive(node, by=self.name)
            reason = self.reason(node, site, shared, repeated, layers, carriers)
            annotate(node, targeted=not reason)
            if reason:
                refuse(node, by=self.name, reason=reason)
        return False

    def reason(
        self,
        node: Node,
        site: MatmulSite,
        shared: dict[str, str],
        repeated: dict[str, int],
        layers: frozenset[str],
        carriers: frozenset[str],
    ) -> str:
        """Why this site may not be compressed; empty when it may."""
        if site.weight is None:
            return "both operands are activations"
        if site.layout is Layout.EXPERTS:
            return "experts in one tensor, planned one by one"
        if site.layout is Layout.CONVOLUTION:
            return "convolutions are not factorized"
        if site.weight in shared:
            return f"weight is shared with {shared[site.weight]}"
        if site.weight in repeated:
            return f"weight is used {repeated[site.weight]} times, and not in the same way"
        if reader := note(node).read_by:
            return f"{reader} reads its weight without calling it"
        stack = ops.module_stack(node)
        owner = stack[-1][1] if stack else ""
        if carriers & {kind for _, kind in stack[-2:]}:
            return "already factorized"
        if site.layout is Layout.RESHAPED:
            return f"{owner or 'its owner'} multiplies with it in another shape"
        if stack and not in_layer(node, layers):
            return "outside the repeated layers"
        if owner not in ("Linear", "Conv1D"):
            return f"owned by {owner or 'an unknown module'}, which is no Linear"
        hit = next((p for p in self.skip if fnmatchcase(site.name, p)), None)
        return f"left out by skip={hit}" if hit else ""


def unlike_uses(gm: GraphModule) -> dict[str, int]:
    """Parameter name -> nodes that read it, where they are not all the same product of one module.

    A module that runs several times, as in a model that runs its layers in a loop, has one weight
    to replace. Other readers would miss it.
    """
    kinds = defaultdict[str, list[tuple[object, ...]]](list)
    for node, site in matmuls(gm):
        if site.weight is not None:
            callers = tuple(path for path, _ in ops.module_stack(node)[-1:])
            kinds[site.weight].append((callers, site.layout, site.m, site.dtype, site.bias))
    uses = weight_uses(gm)
    return {
        weight: uses[weight]
        for weight, found in kinds.items()
        if uses[weight] > 1 and (len(found) < uses[weight] or len(set(found)) > 1)
    }
