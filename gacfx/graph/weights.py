"""What a graph holds: who else reads a weight, by another name or twice, and constants."""

from collections import Counter, defaultdict
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node

from gacfx.graph.ops import short_name

_ASSERTION = torch.ops.aten._assert_tensor_metadata.default


def shared_weights(gm: GraphModule) -> dict[str, str]:
    """Parameter name -> another name of the same tensor (tied weights)."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in gm.named_parameters(remove_duplicate=False):
        names[id(tensor)].append(name)
    tied = [group for group in names.values() if len(group) > 1]
    return {name: next(o for o in group if o != name) for group in tied for name in group}


def weight_uses(gm: GraphModule) -> Counter[str]:
    """Parameter name -> nodes that read it, whatever they do with it; assertions read no values.

    A copy of a graph has one name left for a tied weight, and only this still tells.
    """
    uses: Counter[str] = Counter()
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] += sum(user.target != _ASSERTION for user in node.users)
    return uses


def constant(node: object) -> Tensor | None:
    """The values of a tensor that a graph holds and that is no parameter; None where they are not
    known."""
    while isinstance(node, Node) and node.op == "call_function" and _keeps(node):
        node = node.args[0]
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    held = attrgetter(str(node.target))(node.graph.owning_module)
    if not isinstance(held, Tensor) or isinstance(held, nn.Parameter | FakeTensor) or held.is_meta:
        return None
    return held


def _keeps(node: Node) -> bool:
    return short_name(node) in (
        "lift_fresh_copy",
        "lift_fresh",
        "detach",
        "detach_",
        "alias",
        "clone",
    )
