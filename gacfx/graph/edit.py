"""The only place that makes graph nodes or moves parameters of a GraphModule.

A node made by hand has empty meta, and a replaced weight stays behind in its module: both traps are
handled here once.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from gacfx.graph.notes import CUSTOM, inherit_custom
from gacfx.graph.ops import VALUE_KEYS, module_stack


def fork(gm: GraphModule) -> GraphModule:
    """A copy of the graph, notes included, over the same parameters: rewriting it costs no memory
    and leaves ``gm`` as it is."""
    graph = Graph()
    values: dict[Node, Node] = {}
    output = graph.graph_copy(gm.graph, values)
    graph.output(output)
    source = gm.graph.output_node()
    graph.output_node().meta = dict(source.meta)
    graph.set_codegen(gm.graph._codegen)
    return GraphModule(gm, graph)


def call(gm: GraphModule, target: Any, args: Sequence[Any], *, like: Node, module: str) -> Node:
    """A call placed before ``like``, in the module ``module``, with the rest of like's meta.

    The fake value is left for the refresh that follows every rewrite; notes are not inherited.
    """
    with gm.graph.inserting_before(like):
        new = gm.graph.call_function(target, tuple(args))
    own = (*VALUE_KEYS, CUSTOM, "nn_module_stack")
    kept = {k: v for k, v in like.meta.items() if k not in own}
    new.meta.update(kept)
    inherit_custom(new, like)
    new.meta["nn_module_stack"] = _stack(like, module)
    return new


def parameter_node(gm: GraphModule, name: str, *, like: Node) -> Node:
    """A ``get_attr`` of the parameter ``name``, placed before ``like``."""
    with gm.graph.inserting_before(like):
        return gm.graph.get_attr(name)


def set_parameter(gm: GraphModule, name: str, tensor: Tensor) -> None:
    """Put ``tensor`` at ``name``, making the modules on the way; a Parameter is kept as it is."""
    path, _, leaf = name.rpartition(".")
    owner: nn.Module = gm
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    if not isinstance(tensor, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(owner, leaf, tensor)


def delete_parameter(gm: GraphModule, name: str) -> None:
    """Remove the parameter ``name``; fx never removes one by itself."""
    path, _, leaf = name.rpartition(".")
    delattr(gm.get_submodule(path), leaf)


def replace_node(gm: GraphModule, old: Node, new: Node) -> None:
    """Send every user of ``old`` to ``new`` and erase ``old``."""
    old.replace_all_uses_with(new)
    gm.graph.erase_node(old)


def _stack(like: Node, module: str) -> dict[str, tuple[str, str]]:
    """The module stack of ``like``, with LowRankLinear and its child as innermost entries."""
    rows = list(module_stack(like))[:-1]
    owner, _, _ = module.rpartition(".")
    rows += [(owner, "LowRankLinear"), (module, "Linear")]
    return {path: (path, kind) for path, kind in rows}
