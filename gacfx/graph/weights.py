"""Who else reads a weight: other names of the same tensor, and nodes that read it twice."""

from collections import Counter, defaultdict

import torch
from torch.fx import GraphModule

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
