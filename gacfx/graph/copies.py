"""The copies of a compressed layer: kernels around its products that only move or add data.

    p, q = linear(x), linear(p)              products: sites of their own
    both = cat([p, q])                       join     }
    y    = index_select(both, order)         gather   }  a run: what one product leads to the next
    y    = add(y, bias)                      sum      }

Views, such as a split, cost nothing, and what runs outside of such layers is left alone: the dense
model does it as well.
"""

from collections.abc import Iterator
from itertools import groupby

from torch.fx import GraphModule, Node

from gacfx.graph import ops

_WORDS = {
    **dict.fromkeys(("index_select", "index", "gather", "embedding"), "gather"),
    **dict.fromkeys(("cat", "concat", "concatenate"), "join"),
    "add": "sum",
}


def copy_runs(gm: GraphModule, layers: frozenset[str]) -> Iterator[tuple[str, list[Node]]]:
    """(layer, its copies that follow each other), in graph order.

    Args:
        gm: any graph.
        layers: names of the classes of layers whose copies count.
    """
    busy = (node for node in gm.graph.nodes if ops.op_of(node) is not None or ops.moves(node))
    for layer, nodes in groupby(busy, lambda node: _layer(node, layers)):
        if layer:
            yield layer, list(nodes)


def word(node: Node) -> str:
    """``gather``, ``join``, ``sum``; the name of any other operator."""
    return _WORDS.get(name := ops.call_name(node), name)


def _layer(node: Node, layers: frozenset[str]) -> str:
    """The innermost layer that a copy is in; empty for products and for anything outside."""
    if ops.op_of(node) is not None:
        return ""
    found = (path for path, kind in reversed(ops.module_stack(node)) if kind in layers)
    return next(found, "")
