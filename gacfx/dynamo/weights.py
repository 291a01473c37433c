"""The weights of a graph of inductor under the names of the modules that read them.

Before:  permute = aten.permute(arg4_1, [1, 0])                                      an input
         mm = aten.mm(view_1, permute)             inside model.layers.0.self_attn.q_proj
After:   permute = aten.permute(model.layers.0.self_attn.q_proj.weight, [1, 0])      a parameter

Inductor knows no names, only the modules around each node. Where it pads a weight (``pad_mm``), the
padded one is the parameter, as that is what the kernel reads.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import SymInt, nn
from torch.fx import Graph, GraphModule, Node

from gacfx.graph import edit, ops
from gacfx.graph.ops import Op

_PRODUCTS = (Op.LINEAR, Op.ADDMM, Op.MATMUL, Op.GROUPED_MM)
_GRADIENT, _PRIMAL = "tangents", "primals"
"""What AOTAutograd calls gradients that enter a backward graph, and inputs of the forward one."""


@dataclass(frozen=True, slots=True)
class Read:
    """A weight, as a node reads it."""

    source: Node
    """The input, or the constant of a frozen graph."""
    place: Node
    """The node that the parameter stands for: the source, or the source padded."""
    name: str


def is_backward(graph: Graph) -> bool:
    """The graph computes gradients."""
    return any(node.name.startswith(_GRADIENT) for node in graph.find_nodes(op="placeholder"))


def with_names(graph: Graph) -> GraphModule:
    """A copy of a graph whose weights are parameters on the meta device; the graph stays as it is.

    Weights are second factors of products, tables of embeddings, and vectors of numbers: biases,
    norms, and buffers, which cannot be told from them. Graphs inside the graph are left out, as
    inductor shows each of them by itself.
    """
    gm = edit.copy_of(graph, graph.owning_module or nn.Module())
    backward = is_backward(gm.graph)
    if backward:
        _take_forward_modules(gm)
    _keep_nothing_saved(gm)
    _leave_inner_graphs(gm)
    used = Counter[str]()
    finders: tuple[Callable[[Node], Read | None], ...] = (_factor, _table, _vector)
    for find in finders:
        for node in list(gm.graph.nodes):
            read = find(node)
            if read is not None and _is_nameless(read, backward):
                _name(gm, read, used)
    gm.graph.eliminate_dead_code()
    for node in gm.graph.find_nodes(op="placeholder"):
        if not node.users:
            gm.graph.erase_node(node)
    return gm


def _take_forward_modules(gm: GraphModule) -> None:
    """Gives nodes of a backward graph the modules that they compute the gradients of.

    The class of the innermost is another one: in it, both factors may be activations.
    """
    for node in gm.graph.nodes:
        stack = node.meta.get("fwd_nn_module_stack")
        if stack and not node.meta.get("nn_module_stack"):
            last, (path, kind) = list(stack.items())[-1]
            name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
            node.meta["nn_module_stack"] = {**stack, last: (path, f"{name}Backward")}


def _keep_nothing_saved(gm: GraphModule) -> None:
    """Forgets inputs among the results: the forward graph of a training step hands them on."""
    output = gm.graph.output_node()
    output.args = (tuple(n for n in output.all_input_nodes if n.op != "placeholder"),)


def _leave_inner_graphs(gm: GraphModule) -> None:
    for node in gm.graph.find_nodes(op="get_attr"):
        if isinstance(getattr(gm, str(node.target), None), nn.Module):
            gm.add_submodule(str(node.target), nn.Module())


def _factor(node: Node) -> Read | None:
    """The second factor of a product; None for one that the graph computes."""
    op = ops.op_of(node)
    if op not in _PRODUCTS:
        return None
    way = list(_way(ops.operands(node)[1]))
    source, module = way[-1], _module((node, *way))
    place = next(filter(_is_padding, way), source)
    if module is not None:
        return Read(source, place, _inside(module, "weight"))
    return None if op is Op.MATMUL else Read(source, place, source.name)


def _table(node: Node) -> Read | None:
    """The table of an embedding."""
    table, module = node.args[0] if ops.short_name(node) == "embedding" else None, _module([node])
    if not isinstance(table, Node) or module is None:
        return None
    return Read(table, table, _inside(module, "weight"))


def _vector(node: Node) -> Read | None:
    """A vector of numbers that is an input."""
    found, module = ops.value(node), _module(node.users)
    if node.op != "placeholder" or found is None or module is None:
        return None
    vector = found.dtype.is_floating_point and len(found.shape) == 1
    return Read(node, node, _inside(module, node.name)) if vector else None


def _way(node: object) -> Iterator[Node]:
    """The nodes from a factor back to where it comes from: views, casts and padding, and that."""
    while isinstance(node, Node):
        yield node
        if not _is_padding(node) and ops.origin(node) is node:
            return
        source = node.args[0]
        node = source[0] if isinstance(source, list | tuple) else source


def _is_padding(node: Node) -> bool:
    """Zeros behind a tensor, as inductor adds them to reach a size that kernels like."""
    name = ops.short_name(node)
    if name == "constant_pad_nd":
        return not any(node.args[2:]) and not node.kwargs.get("value")
    parts = node.args[0] if name == "cat" else None
    return isinstance(parts, list | tuple) and len(parts) > 1 and all(map(_is_zero, parts[1:]))


def _is_zero(node: object) -> bool:
    """A tensor of zeros that reads nothing."""
    name = ops.short_name(node) if isinstance(node, Node) else ""
    if name in ("full", "new_full"):
        return isinstance(node, Node) and not any(node.args[-1:])
    return name in ("zeros", "new_zeros", "zeros_like")


def _is_nameless(read: Read, backward: bool) -> bool:
    """The source is what a model may hold, and has no name yet, or one that is not of the padded.

    A backward graph also takes what the forward one computed, under the names of its nodes.
    """
    source, found = read.source, ops.value(read.source)
    if found is None or any(isinstance(size, SymInt) for size in found.shape):
        return False
    if source.op == "get_attr":
        return "." not in str(source.target) or read.place is not source
    return source.op == "placeholder" and (not backward or source.name.startswith(_PRIMAL))


def _module(nodes: Iterable[Node]) -> str | None:
    """The innermost module of the first of these nodes that knows one; empty for the model."""
    stacks = (ops.module_stack(node) for node in nodes)
    return next((stack[-1][0] for stack in stacks if stack), None)


def _inside(module: str, leaf: str) -> str:
    return f"{module}.{leaf}".removeprefix(".")


def _name(gm: GraphModule, read: Read, used: Counter[str]) -> None:
    """Puts a parameter in the place of what is read; the second of a name is ``weight_2``."""
    used[read.name] += 1
    name = read.name if used[read.name] == 1 else f"{read.name}_{used[read.name]}"
    sizes, found = ops.shape(read.place), ops.value(read.place)
    assert sizes is not None and found is not None
    edit.set_parameter(gm, name, torch.empty(sizes, dtype=found.dtype, device="meta"))
    new = edit.parameter_node(gm, name, like=read.place)
    new.meta = dict(read.place.meta)
    edit.replace_node(gm, read.place, new)
