"""Which layers alone make the inputs of a layer, channel by channel: GraphModule -> feeders.

    mlp.down_proj: mlp.gate_proj, mlp.up_proj        act(gate) * up
    mlp.c_proj:    mlp.c_fc                          gelu(c_fc)

Such channels may come in any order, if all of these layers agree on it: the model computes the
same. That is said only where every operator in between is known to treat all channels alike and
each by itself, and where nobody else sees them.
"""

from collections import Counter

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from gacfx.core.sites import Layout, MatmulSite
from gacfx.graph import ops
from gacfx.graph.notes import matmuls

_MOVES = ("view", "reshape", "_unsafe_view", "clone", "contiguous", "detach", "to", "_to_copy")
"""Operators that keep the order of the last axis where they keep its size."""

_LOOKS = "_assert_tensor_metadata"
"""Looks at dtype and device only; export puts it beside casts."""


def feeders(gm: GraphModule) -> dict[str, tuple[str, ...]]:
    """Module -> modules whose outputs alone its inputs are made of, for all where that is known.

    Both in graph order; a graph without sites has none.
    """
    own = _own_parameters(gm)
    layers = {node: site for node, site in matmuls(gm) if _is_plain(node, site, own)}
    found = {site.name: _behind(node, site.k.times, layers) for node, site in layers.items()}
    return {module: made for module, made in found.items() if made}


def _behind(last: Node, size: int, layers: dict[Node, MatmulSite]) -> tuple[str, ...]:
    """The layers behind the inputs of ``last``; none where anything is not understood."""
    seen, todo = {last}, [ops.operands(last)[0]]
    while todo:
        node = todo.pop()
        if not isinstance(node, Node) or (ops.shape(node) or (0,))[-1] != size:
            return ()
        before = [] if node in layers else _same_channels(node)
        if before is None:
            return ()
        todo += [each for each in before if each not in seen]
        seen.add(node)
    between = seen - {last}
    users = {user for node in between for user in node.users} - seen
    if any(ops.short_name(user) != _LOOKS for user in users):
        return ()
    return tuple(site.name for node, site in layers.items() if node in between)


def _same_channels(node: Node) -> list[Node] | None:
    """The inputs that have the channels of ``node``; None if it may mix or tell them apart."""
    target = node.target
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return None
    if ops.short_name(node) in _MOVES:
        return node.all_input_nodes
    if torch.Tag.pointwise not in target.tags or torch.Tag.nondeterministic_seeded in target.tags:
        return None
    # One number for all channels treats them alike; a shape that nobody knows is no such number.
    return [n for n in node.all_input_nodes if (ops.shape(n) or ())[-1:] != (1,)]


def _is_plain(node: Node, site: MatmulSite, own: frozenset[str]) -> bool:
    """A layer whose weight and bias are its own, and reach it without casts."""
    held = [each for each in node.all_input_nodes if each is not ops.operands(node)[0]]
    return site.layout in (Layout.LINEAR, Layout.CONV1D) and all(
        each.op == "get_attr" and each.target in own for each in held
    )


def _own_parameters(gm: GraphModule) -> frozenset[str]:
    """Parameters that have one name and one reader."""
    named = [(name, id(each)) for name, each in gm.named_parameters(remove_duplicate=False)]
    names, readers = Counter(tensor for _, tensor in named), Counter[str]()
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] += len(node.users)
    return frozenset(name for name, tensor in named if names[tensor] == readers[name] == 1)
