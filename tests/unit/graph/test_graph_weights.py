"""Who reads a weight: names of one tensor, and nodes, of which assertions are none."""

from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from gacfx.graph.weights import shared_weights, weight_uses

aten: Any = torch.ops.aten


def graph() -> GraphModule:
    """Two names of one weight; one of them is read by a product, a sum and an assertion."""
    root, made = nn.Module(), Graph()
    root.up, root.down, root.head = (nn.Linear(4, 4, bias=False) for _ in range(3))
    root.head.weight = root.up.weight
    x = made.placeholder("x")
    up, down, head = (made.get_attr(f"{name}.weight") for name in ("up", "down", "head"))
    made.call_function(aten._assert_tensor_metadata.default, (up,), {"dtype": torch.float32})
    made.call_function(aten._assert_tensor_metadata.default, (down,), {"dtype": torch.float32})
    hidden = made.call_function(aten.linear.default, (x, up))
    hidden = made.call_function(aten.linear.default, (hidden, down))
    moved = made.call_function(aten.add.Tensor, (hidden, up))
    made.output(made.call_function(aten.linear.default, (moved, head)))
    return GraphModule(root, made)


def test_names_of_one_tensor() -> None:
    assert shared_weights(graph()) == {"up.weight": "head.weight", "head.weight": "up.weight"}


def test_nodes_that_read_a_weight() -> None:
    assert weight_uses(graph()) == {"up.weight": 2, "down.weight": 1, "head.weight": 1}
