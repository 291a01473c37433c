"""Experts in a graph that shows each of them: which share of the tokens one sees.

A captured graph gives every token to every expert, most with a share of zero. A model at work gives
each token to the experts that its router chose:

    experts.0.fc1 = linear(tokens)     51 tokens in the graph, 51 * 2/8 on average
"""

from collections import defaultdict
from dataclasses import replace

from torch.fx import GraphModule, Node

from gacfx.core.sites import MatmulSite
from gacfx.graph import ops

EXPERTS = "UnpackedExperts"
"""Class of the module whose numbered children are experts."""


Shares = dict[str, tuple[int, int]]
"""Module of experts -> (experts that see a token, experts that there are)."""


def routed(gm: GraphModule) -> Shares:
    """The shares of all modules of experts that a graph shows one by one."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    chosen: dict[str, int] = {}
    for node in gm.graph.nodes:
        stack = ops.module_stack(node)
        home = next((path for path, kind in stack if kind == EXPERTS), None)
        if home is None:
            continue
        if stack[-1][0] != home:
            children[home].add(stack[-1][0].removeprefix(f"{home}.").partition(".")[0])
        elif ops.short_name(node) == "eq":
            sizes = ops.shape(node)
            assert sizes is not None
            chosen.setdefault(home, sizes[-1])
    return {home: (chosen[home], len(found)) for home, found in children.items() if home in chosen}


def seen_by_experts(site: MatmulSite, node: Node, shares: Shares) -> MatmulSite:
    """The site, with as many rows as its expert sees on average; itself outside of experts."""
    around = (path for path, _ in ops.module_stack(node))
    share = next((shares[path] for path in around if path in shares), None)
    if share is None:
        return site
    chosen, experts = share
    return replace(site, m=replace(site.m, times=site.m.times * chosen, per=experts))
