"""The tensors of a rewritten graph as inputs again, which is how inner backends want them.

Before:  linear = aten.linear.default(x, up_proj.down.weight)    a parameter of the graph module
After:   linear = aten.linear.default(x, up_proj_down_weight)    an input
"""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._guards import detect_fake_mode
from torch.fx import GraphModule

from gacfx.dynamo.lower import Lowered
from gacfx.graph import edit

Slot = int | Tensor
"""Where an input comes from: a place in the call, or a tensor of the plan."""


@dataclass(frozen=True, eq=False)
class Lifted:
    """A graph without tensors of its own."""

    graph: GraphModule
    slots: tuple[Slot, ...]
    """Of each of its inputs."""

    def arguments(self, call: Sequence[Any]) -> list[Any]:
        """The inputs of a call."""
        return [call[slot] if isinstance(slot, int) else slot for slot in self.slots]

    @contextmanager
    def fixed_sizes(self, call: Sequence[Any]) -> Iterator[None]:
        """Inside, whoever traces the graph takes the sizes of the plan's tensors as they are.

        A backend that traces once more would else leave them open, like sizes of inputs, and Dynamo
        knows of no such inputs.
        """
        mode = detect_fake_mode(call)
        known = [
            mode.from_tensor(slot, static_shapes=True)  # found again for as long as it is alive
            for slot in self.slots
            if mode is not None and isinstance(slot, Tensor)
        ]
        yield
        del known


def lift(lowered: Lowered, original: dict[int, Tensor]) -> Lifted:
    """Makes inputs of all parameters and buffers, and drops inputs that nothing reads any more.

    Args:
        lowered: after the passes; changed.
        original: place in the call -> tensor, of what the model holds.
    """
    gm, slots = lowered.graph, dict[str, Slot]()
    places = {id(tensor): at for at, tensor in original.items()}
    for node in [n for n in gm.graph.nodes if n.op == "placeholder"]:
        if node.users:
            slots[node.name] = lowered.inputs[node.name]
        else:
            gm.graph.erase_node(node)
    made: dict[int, Any] = {}
    for node in [n for n in gm.graph.nodes if n.op == "get_attr"]:
        tensor = operator.attrgetter(str(node.target))(gm)
        if not isinstance(tensor, Tensor):
            continue  # a subgraph, of an operator that takes one
        if id(tensor) not in made:
            made[id(tensor)] = new = edit.input_node(gm, str(node.target), like=node)
            slots[new.name] = places.get(id(tensor), tensor.detach())
        edit.replace_node(gm, node, made[id(tensor)])
    for name, _ in list(gm.named_parameters(remove_duplicate=False)):
        edit.delete_parameter(gm, name)
    gm.meta = {}
    gm.graph.lint()
    gm.recompile()
    order = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
    return Lifted(gm, tuple(slots[name] for name in order))
