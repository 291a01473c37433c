"""What a graph must show before it can be analysed: every matmul, its shapes and its weights.

A graph that hides one of them would get a note that is wrong, or none, so it is refused with what
to do about it. What :func:`gacfx.capture` makes is always readable.
"""

from operator import attrgetter

from torch import nn
from torch.fx import GraphModule, Node

from gacfx.errors import PassError
from gacfx.graph import ops
from gacfx.graph.ops import Op

_OWNERS = ("Linear", "Conv1D")
"""Modules whose second operand is their own weight, whatever a graph calls it."""
_REMEDY = "capture the model with gacfx.capture"


def check_readable(gm: GraphModule, by: str) -> None:
    """Nothing when every matmul and attention node of ``gm`` can be read.

    Args:
        gm: any graph.
        by: name of the pass that is about to read it.

    Raises:
        PassError: matmuls inside called modules, parameters that are inputs, or no shapes.
    """
    problem = _hidden(gm) or _lifted(gm) or _shapeless(gm)
    if problem:
        raise PassError(f"{by}: {problem}")


def _hidden(gm: GraphModule) -> str:
    """Matmuls inside a module or a graph that this graph calls as one node."""
    for node in gm.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        module = attrgetter(str(node.target))(gm)
        if not isinstance(module, nn.Module) or not any(map(_multiplies, module.modules())):
            continue
        inside = "graph" if isinstance(module, GraphModule) else type(module).__name__
        remedy = "run the passes before the graph is split" if inside == "graph" else _REMEDY
        return f"{node.target} is one {inside} whose matmuls cannot be seen from here; {remedy}"
    return ""


def _multiplies(module: nn.Module) -> bool:
    """It has a matmul of its own, or a matrix that is no embedding."""
    if isinstance(module, GraphModule):
        return any(ops.op_of(node) is not None for node in module.graph.nodes)
    own = [parameter for _, parameter in module.named_parameters(recurse=False)]
    return not isinstance(module, nn.Embedding) and any(p.dim() == 2 for p in own)


def _lifted(gm: GraphModule) -> str:
    """A weight that comes in as an input, where it should be a parameter of the graph.

    A product of two inputs is one of activations as long as the graph has parameters of its own.
    """
    bare = not any(node.op == "get_attr" for node in gm.graph.nodes)
    for node in gm.graph.nodes:
        op = ops.op_of(node)
        if op not in (Op.LINEAR, Op.ADDMM, Op.MATMUL):
            continue
        weight = ops.origin(ops.operands(node)[1])
        if weight is None or weight.op != "placeholder":
            continue
        stack = ops.module_stack(node)
        owned = bool(stack) and stack[-1][1] in _OWNERS
        if owned or (bare and op is not Op.MATMUL):
            return (
                f"the weight of {node.name} is the input {weight.name}, no parameter of the graph; "
                f"take exported.module() (or the graph before it was split), or {_REMEDY}"
            )
    return ""


def _shapeless(gm: GraphModule) -> str:
    """A matmul or attention node of unknown shape."""
    for node in gm.graph.nodes:
        if ops.op_of(node) is None:
            continue
        if blank := [n for n in (*node.all_input_nodes, node) if _is_blank(n)]:
            return (
                f"{blank[0].name} has no shape; {_REMEDY}, or run FakeTensorProp(gm, "
                "FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs) first"
            )
    return ""


def _is_blank(node: Node) -> bool:
    return not any(key in node.meta for key in ops.VALUE_KEYS)
