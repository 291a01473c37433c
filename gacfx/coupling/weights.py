"""What a captured graph says of its weights: which matmul reads each of them, and who else does."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch.fx import GraphModule, Node

from gacfx.coupling.attentions import Attention, attentions
from gacfx.coupling.interpreter import Interpreter
from gacfx.coupling.terms import Axes, Term, atoms, find
from gacfx.graph import ops
from gacfx.graph.layers import in_layer, layers_of
from gacfx.graph.notes import note
from gacfx.graph.ops import Op
from gacfx.graph.weights import shared_weights, weight_uses
from gacfx.modules.make import carrier_names

_OWNERS = ("Linear", "Conv1D")
_READERS = (Op.LINEAR, Op.ADDMM, Op.MATMUL, Op.GROUPED_MM)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that a matmul reads."""

    name: str
    """Of the parameter."""
    node: Node
    axes: Axes
    """Of the parameter, as it is stored."""
    inputs_at: int
    """The axis that its inputs run along."""

    @property
    def module(self) -> str:
        """Module of the weight; an expert tensor goes by its own name."""
        return self.name.removesuffix(".weight")

    @property
    def experts(self) -> bool:
        """One matrix for each expert."""
        return len(self.axes) != 2

    @property
    def outputs(self) -> tuple[Term, ...]:
        """Its outputs; every axis but the inputs, of an expert tensor."""
        return tuple(term for at, term in enumerate(self.axes) if at != self.inputs_at)

    @property
    def inputs(self) -> Term:
        """Its inputs."""
        return self.axes[self.inputs_at]

    @property
    def rows(self) -> int:
        """Outputs, of all experts together."""
        return prod(term.size for term in self.outputs)

    @property
    def source(self) -> Node:
        """What the layer is applied to."""
        x = ops.operands(self.node)[0]
        assert isinstance(x, Node)
        return x


class Weights:
    """The weights of a graph that was interpreted."""

    def __init__(self, gm: GraphModule, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.nodes = tuple(gm.graph.nodes)
        self.layers = layers_of(gm)
        self._shared, self._uses = shared_weights(gm), weight_uses(gm)
        self._carriers = carrier_names()

    @cached_property
    def by_name(self) -> dict[str, Weight]:
        """Parameter -> the matmul that reads it, in graph order; the first one of several."""
        found: dict[str, Weight] = {}
        for node in self.nodes:
            op = ops.op_of(node)
            if op not in _READERS:
                continue
            name = ops.weight_name(ops.operands(node)[1])
            if name in self.interpreter.params and name not in found:
                axes = self.interpreter.params[name]
                found[name] = Weight(name, node, axes, self._inputs_at(node, op, axes))
        return found

    def _inputs_at(self, node: Node, op: Op | None, axes: Axes) -> int:
        """The axis of a weight that is summed over."""
        if op in (Op.LINEAR, Op.ADDMM):
            return 1 if op is Op.LINEAR else 0
        source = ops.operands(node)[0]
        assert isinstance(source, Node)
        summed = self.axes(source)[-1:]
        # It may be stored either way and transposed on the fly.
        return next((at for at, axis in enumerate(axes) if find(axis) in summed), len(axes) - 1)

    @cached_property
    def attentions(self) -> tuple[Attention, ...]:
        """All attentions, in graph order."""
        return attentions(self.nodes)

    @cached_property
    def _showing(self) -> dict[Term, list[str]]:
        found: defaultdict[Term, dict[str, None]] = defaultdict(dict)
        for name, axes in self.interpreter.params.items():
            for atom in (atom for axis in axes for atom in atoms(axis)):
                found[atom][name] = None
        return {atom: list(names) for atom, names in found.items()}

    def showing(self, wanted: tuple[Term, ...]) -> tuple[str, ...]:
        """Parameters that have one of these atoms in an axis, in graph order."""
        return tuple(dict.fromkeys(name for a in wanted for name in self._showing.get(a, ())))

    def layer_of(self, name: str) -> str:
        """The innermost repeated layer around a module or parameter; empty outside of all."""
        while name:
            name = name.rpartition(".")[0]
            if name in self.layers:
                break
        return name

    def layer_around(self, node: Node) -> str:
        """The innermost repeated layer that a node runs in; empty outside of all."""
        around = (path for path, _ in ops.module_stack(node) if path in self.layers)
        return max(around, key=len, default="")

    def axes(self, node: Node) -> Axes:
        """Axes of a node's tensor; none where it has no single one."""
        value = self.interpreter.values.get(node)
        return tuple(map(find, value)) if isinstance(value, tuple) else ()

    def unfit(self, weight: Weight) -> str:
        """Why this weight cannot lose rows or columns, whatever they are; empty if it can."""
        stack = ops.module_stack(weight.node)
        owner = stack[-1][1] if stack else "no module"
        if weight.experts:
            return "experts in one tensor, planned one by one"
        if weight.name in self._shared:
            return f"its weight is shared with {self._shared[weight.name]}"
        if self._uses[weight.name] > 1:
            return f"its weight is used {self._uses[weight.name]} times"
        if reader := note(weight.node).read_by:
            return f"{reader} reads its weight without calling it"
        if not in_layer(weight.node, self.layers):
            return "outside the repeated layers"
        if self._carriers & {kind for _, kind in stack[-2:]}:
            return "already factorized"
        if owner not in _OWNERS or not _is_read(ops.operands(weight.node)[1]):
            return f"owned by {owner}, which is no Linear"
        return ""


def _is_read(value: object) -> bool:
    """The parameter itself, neither transposed nor cast."""
    return isinstance(value, Node) and value.op == "get_attr"
