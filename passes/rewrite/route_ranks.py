"""Let a graph follow what a prompt picks of a pool of ranks.

Before:  linear(linear(x, slice(q_proj.down, 0, 0, 64)), numpy_T(slice(q_proj.up, 0, 0, 64)))
After:   linear(linear(x, index_select(q_proj.down, 0, q_proj.pick)), numpy_T(index_select(...)))

``q_proj.pick`` is a buffer of 64 ranks, the static prefix at first. :func:`set_pick` writes another
pick into it, in place, so that the graph and whatever was compiled of it stay as they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from gacfx.core.plan import Plan
from gacfx.core.routed import Routed
from gacfx.errors import PassError, PlanError
from gacfx.graph import edit
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact
from gacfx.graph.ops import aten

PICK = "pick"
"""Name of the buffer inside the module of a weight."""


@register
@dataclass(frozen=True)
class RouteRanks(GacPass):
    """Gather the ranks of each pool by a buffer that may change between prompts."""

    name = "route-ranks"
    drops = frozenset({Fact.SITES, Fact.TARGETS, Fact.TIERS, Fact.LATENCY, Fact.DIMS})
    required = frozenset({"plan"})

    plan: Plan | None = given()

    def run(self, gm: GraphModule) -> bool:
        assert self.plan is not None
        routed = routed_weights(self.plan)
        for module, decision in routed.items():
            parts = [*_prefixes(gm, module, decision)]
            if not parts:
                raise PassError(
                    f"{self.name}: the graph has no pool {module}; run factorize with this plan "
                    "first, and clean after it"
                )
            name = f"{module}.{PICK}"
            device = gm.get_parameter(f"{module}.down").device
            edit.set_buffer(gm, name, torch.arange(decision.active, device=device))
            for node, pool in parts:
                pick = edit.parameter_node(gm, name, like=node)
                build = edit.Build(gm, node, module, "RankExpertLinear")
                made = build.call(aten.index_select.default, (pool, 0, pick))
                edit.replace_node(gm, node, made)
        return bool(routed)

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        for module, decision in routed_weights(self.plan).items():
            if [*_prefixes(gm, module, decision)]:
                raise PassError(f"{self.name}: {module} still runs its static prefix")


def routed_weights(plan: Plan) -> dict[str, Routed]:
    """Module -> decision, of the weights that become pools."""
    return {name: each for name, each in plan.decisions.items() if isinstance(each, Routed)}


def set_pick(gm: GraphModule, blocks: Mapping[str, Tensor], plan: Plan) -> None:
    """Compute with these blocks from the next call on.

    Args:
        gm: that ``route-ranks`` ran on.
        blocks: module -> int [picks]; modules without one go back to their static prefix.
        plan: of the graph.

    Raises:
        PlanError: blocks of a weight that is no pool, another number of them, or one that the pool
            does not have; ``route-ranks`` did not run.
    """
    routed = routed_weights(plan)
    if unknown := sorted(blocks.keys() - routed.keys()):
        raise PlanError(f"{unknown[0]}: the plan has no pool there")
    buffers = dict(gm.named_buffers())
    for module, decision in routed.items():
        if f"{module}.{PICK}" not in buffers:
            raise PlanError(
                f"{module}: the graph has no pick; run route-ranks with this plan first"
            )
        found = blocks.get(module, torch.arange(decision.picks)).cpu()
        right = tuple(found.shape) == (decision.picks,) and len(found.unique()) == decision.picks
        if not right or int(found.min()) < 0 or int(found.max()) >= decision.blocks:
            raise PlanError(
                f"{module}: {found.tolist()} are not {decision.picks} different ones of the "
                f"{decision.blocks} blocks of {decision}"
            )
    for module, decision in routed.items():
        found = blocks.get(module, torch.arange(decision.picks)).cpu().sort().values
        ranks = found[:, None] * decision.block + torch.arange(decision.block)
        buffers[f"{module}.{PICK}"].copy_(ranks.flatten())


def _prefixes(gm: GraphModule, module: str, decision: Routed) -> Iterator[tuple[Node, Node]]:
    """(slice, pool) of both factors of a weight, for each of its products."""
    names = {f"{module}.down", f"{module}.up"}
    for node in [*gm.graph.nodes]:
        if node.target != aten.slice.Tensor or node.args[1:] != (0, 0, decision.active):
            continue
        pool = node.args[0]
        if isinstance(pool, Node) and pool.op == "get_attr" and str(pool.target) in names:
            yield node, pool
