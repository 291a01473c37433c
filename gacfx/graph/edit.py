"""The only place that makes graph nodes or moves parameters of a GraphModule.

A node made by hand has empty meta, and a replaced weight stays behind in its module: both traps are
handled here once.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from gacfx.graph.notes import CUSTOM, inherit_custom
from gacfx.graph.ops import VALUE_KEYS, aten, module_stack


def fork(gm: GraphModule) -> GraphModule:
    """A copy of the graph, notes included, over the same parameters: rewriting it costs no memory
    and leaves ``gm`` as it is."""
    return copy_of(gm.graph, gm)


def copy_of(graph: Graph, owner: nn.Module) -> GraphModule:
    """As :func:`fork`, of a graph whose ``get_attr`` nodes read from ``owner``."""
    new = Graph()
    values: dict[Node, Node] = {}
    output = new.graph_copy(graph, values)
    new.output(output)
    new.output_node().meta = dict(graph.output_node().meta)
    new.set_codegen(graph._codegen)
    return GraphModule(owner, new)


@dataclass(frozen=True)
class Build:
    """Makes the nodes that stand for one matmul, inside the module that it was of.

    The fake values are left for the refresh that follows every rewrite; notes are not inherited.
    """

    gm: GraphModule
    like: Node
    """The matmul: new nodes stand before it and have the rest of its meta."""
    module: str
    """Name of its module."""
    kind: str
    """Name of the class that stands in its place in the module."""

    def call(self, target: Any, args: Sequence[Any], *, child: str = "", **named: Any) -> Node:
        """A call inside the module, or inside one of its linear children.

        Args:
            target: an operator.
            args: by place.
            child: name of the linear child; empty for the module itself.
            named: arguments by name.
        """
        own = (*VALUE_KEYS, CUSTOM, "nn_module_stack")
        with self.gm.graph.inserting_before(self.like):
            new = self.gm.graph.call_function(target, tuple(args), named)
        new.meta.update({k: v for k, v in self.like.meta.items() if k not in own})
        inherit_custom(new, self.like)
        new.meta["nn_module_stack"] = self._stack(child)
        return new

    def linear(self, x: Node, weight: Node, bias: Node | None = None, *, child: str) -> Node:
        """A linear that is a child of the module."""
        tail = () if bias is None else (bias,)
        return self.call(aten.linear.default, (x, weight, *tail), child=child)

    def item(self, values: Node, at: int) -> Node:
        """One of several results."""
        return self.call(operator.getitem, (values, at))

    def _stack(self, child: str) -> dict[str, tuple[str, str]]:
        """The module stack of the matmul, with the module as its new class and the child."""
        rows = [*list(module_stack(self.like))[:-1], (self.module, self.kind)]
        if child:
            rows.append((f"{self.module}.{child}", "Linear"))
        return {path: (path, kind) for path, kind in rows}


def parameter_node(gm: GraphModule, name: str, *, like: Node) -> Node:
    """A ``get_attr`` of the parameter or buffer ``name``, placed before ``like``."""
    with gm.graph.inserting_before(like):
        return gm.graph.get_attr(name)


def input_node(gm: GraphModule, name: str, *, like: Node) -> Node:
    """A further input of the graph, with the meta of ``like``."""
    first = next(node for node in gm.graph.nodes if node.op != "placeholder")
    with gm.graph.inserting_before(first):
        new = gm.graph.placeholder(name.replace(".", "_"))
    new.meta = dict(like.meta)
    return new


def copy_node(
    gm: GraphModule,
    node: Node,
    values: Mapping[Node, Node],
    *,
    before: Node,
) -> Node:
    """A copy with its meta, before another node.

    Args:
        gm: the graph.
        node: to copy.
        values: what the copy reads instead of what ``node`` reads.
        before: the node that it stands before.
    """
    with gm.graph.inserting_before(before):
        return gm.graph.node_copy(node, lambda each: values.get(each, each))


def set_parameter(gm: GraphModule, name: str, tensor: Tensor) -> None:
    """Put ``tensor`` at ``name``, making the modules on the way; a Parameter is kept as it is."""
    if not isinstance(tensor, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    owner, leaf = _owner(gm, name)
    setattr(owner, leaf, tensor)


def set_buffer(gm: GraphModule, name: str, tensor: Tensor) -> None:
    """Put ``tensor`` at ``name`` as a buffer that is saved, making the modules on the way."""
    owner, leaf = _owner(gm, name)
    owner.register_buffer(leaf, tensor)


def delete_parameter(gm: GraphModule, name: str) -> None:
    """Remove the parameter ``name``; fx never removes one by itself."""
    path, _, leaf = name.rpartition(".")
    delattr(gm.get_submodule(path), leaf)


def delete_module(gm: GraphModule, path: str) -> None:
    """Remove a submodule; nothing where there is none."""
    owner, _, leaf = path.rpartition(".")
    gm.get_submodule(owner)._modules.pop(leaf, None)


def replace_node(gm: GraphModule, old: Node, new: Node) -> None:
    """Send every user of ``old`` to ``new`` and erase ``old``."""
    old.replace_all_uses_with(new)
    gm.graph.erase_node(old)


def _owner(gm: GraphModule, name: str) -> tuple[nn.Module, str]:
    """(module that holds ``name``, made where it is missing; the name in it)."""
    path, _, leaf = name.rpartition(".")
    owner: nn.Module = gm
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    return owner, leaf
