"""Dynamo's graph as the passes read graphs: aten operators, and parameters under their own names.

Before:  linear = torch._C._nn.linear(x, l_self_modules_up_proj_parameters_weight_)   an input
After:   linear = aten.linear.default(x, up_proj.weight)                              a parameter

Dynamo reads its own graph again after a backend has returned, so that graph is never edited.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from gacfx.dynamo.inputs import Names
from gacfx.errors import CaptureError
from gacfx.graph import edit


@dataclass(frozen=True, eq=False)
class Lowered:
    """A graph whose inputs are those of a call, without the tensors that the model holds."""

    graph: GraphModule
    inputs: dict[str, int]
    """Placeholder -> its place in the call."""
    held: dict[str, int]
    """Parameter or buffer -> its place in the call."""


def lower(gm: GraphModule, arguments: Sequence[Any], names: Names) -> Lowered:
    """A graph of its own, which computes what ``gm`` does.

    Args:
        gm: as Dynamo hands it to a backend; left as it is.
        arguments: the tensors and sizes that it was traced with.
        names: of those that the model holds.

    Raises:
        CaptureError: it cannot be traced once more; the message carries the reason.
    """
    placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    fakes = [node.meta.get("example_value", node.meta.get("val")) for node in placeholders]
    mode = next((fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor)), None)
    if mode is None:
        raise CaptureError("the compiled graph has no tensors among its inputs")

    def run(*values: Any) -> Any:
        with preserve_node_meta():
            return Interpreter(gm).run(*values)

    try:
        with mode:
            made = make_fx(run, pre_dispatch=True, _allow_non_fake_inputs=True)(*fakes)
    except Exception as error:  # tracing raises many unrelated types
        said = (str(error).strip().splitlines() or ["no message"])[0][:300]
        raise CaptureError(
            f"the compiled graph cannot be traced as aten: {type(error).__name__}: {said}"
        ) from error
    lowered = Lowered(made, {}, {})
    _name_modules(made, names)
    new = [node for node in made.graph.nodes if node.op == "placeholder"]
    for at, (node, argument) in enumerate(zip(new, arguments, strict=True)):
        name = names.of.get(at)
        if name is None:
            lowered.inputs[node.name] = at
        else:
            lowered.held[name] = at
            _hold(made, node, name, argument)
    made.graph.eliminate_dead_code()
    made.recompile()
    return lowered


def _hold(gm: GraphModule, node: Node, name: str, tensor: Tensor) -> None:
    """Puts a tensor into the graph module in the place of an input."""
    put = edit.set_parameter if isinstance(tensor, torch.nn.Parameter) else edit.set_buffer
    put(gm, name, tensor)
    new = edit.parameter_node(gm, name, like=node)
    new.meta = dict(node.meta)
    edit.replace_node(gm, node, new)


def _name_modules(gm: GraphModule, names: Names) -> None:
    """Modules around each node, as the plan has them: ``model.layers.0.mlp`` for
    ``L['self'].mlp``, and the layer that it is in, though only the MLP was compiled."""
    for node in gm.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            named = {key: (names.module(str(path)), kind) for key, (path, kind) in stack.items()}
            first = next(iter(stack.values()))[0]
            outside = {path: (path, "Module") for path in names.around(str(first))}
            node.meta["nn_module_stack"] = outside | named
