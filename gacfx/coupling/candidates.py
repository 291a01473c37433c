"""Where a model has units: attentions with their heads, and layers that read channels of others.

scaled_dot_product_attention   heads of its result: kv heads x query heads of each
down_proj                      its inputs, where they are outputs of layers beside it
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch.fx import Node

from gacfx.coupling.terms import Kind, Term, atoms, find
from gacfx.coupling.weights import Weight, Weights
from gacfx.graph import ops
from gacfx.graph.ops import Op

_REPEATS = ("view", "reshape", "_unsafe_view", "expand", "unsqueeze", "repeat_interleave")
_MOVES = (*_REPEATS, "transpose", "permute", "clone", "contiguous", "to", "_to_copy", "detach")


@dataclass(frozen=True, eq=False)
class Candidate:
    """Units that may go together, before anybody asked whether they may."""

    kind: Literal["width", "heads"]
    node: Node
    """The attention, or the matmul that reads the channels."""
    unit: Term | None
    """Atom of the channels or key-value heads; None where all query heads share one."""
    head: Term | None = None
    """Atom of the query heads of each; None where there is one."""
    problem: str = ""
    """Why it can be no structure."""

    @property
    def atoms(self) -> tuple[Term, ...]:
        """Those of the unit and of the head."""
        return tuple(atom for atom in (self.unit, self.head) if atom is not None)


def candidates(weights: Weights) -> tuple[Candidate, ...]:
    """All of a graph, attentions first."""
    heads = [_heads(weights, node) for node in weights.nodes if ops.op_of(node) is Op.ATTENTION]
    axes = (axis for candidate in heads for axis in weights.axes(candidate.node))
    taken = {atom for axis in axes for atom in atoms(axis)}
    widths = [_width(weights, weight, taken) for weight in weights.by_name.values()]
    return (*heads, *(width for width in widths if width is not None))


# -- attention ------------------------------------------------------------------------------------


def _heads(weights: Weights, node: Node) -> Candidate:
    axes = weights.axes(node)
    if len(axes) < 3:
        return Candidate("heads", node, None, problem="its heads are no axis of their own")
    found = [atom for atom in dict.fromkeys(atoms(axes[-3])) if atom.size > 1]
    stored = set(_atoms_before_repeat(weights, node.args[2]))
    units = [atom for atom in found if atom in stored]
    heads = [atom for atom in found if atom not in stored]
    problem = ""
    if not found:
        problem = "it has one head"
    elif len(units) > 1 or len(heads) > 1:
        problem = "its heads are made of several axes"
    elif _crosses(weights, node):
        problem = "cross attention"
    return Candidate(
        "heads", node, units[0] if units else None, heads[0] if heads else None, problem
    )


def _atoms_before_repeat(weights: Weights, node: object) -> Iterator[Term]:
    """Atoms of the values before they were repeated for every query head of their group."""
    while isinstance(node, Node) and ops.short_name(node) in _MOVES:
        node = node.args[0]
    if isinstance(node, Node):
        for axis in weights.axes(node):
            yield from atoms(axis)


def _crosses(weights: Weights, node: Node) -> bool:
    """Keys come from another sequence than queries."""
    query, key = (weights.axes(each)[-2] for each in node.all_input_nodes[:2])
    return find(query) is not find(key)


def stored_behind(weights: Weights, node: Node) -> tuple[Weight, ...]:
    """The layers that make keys and values of an attention, in graph order."""
    by_node = {weight.node: weight for weight in weights.by_name.values()}
    seen: set[Node] = set()
    todo = [each for each in node.args[1:3] if isinstance(each, Node)]
    while todo:
        here = todo.pop()
        if here not in seen:
            seen.add(here)
            todo += [] if here in by_node else here.all_input_nodes
    return tuple(weight for each, weight in by_node.items() if each in seen)


# -- channels -------------------------------------------------------------------------------------


def _width(weights: Weights, weight: Weight, taken: set[Term]) -> Candidate | None:
    """The channels that ``weight`` reads; None for those of attentions and the residual stream."""
    term = find(weights.axes(weight.source)[-1])
    own = tuple(atom for atom in dict.fromkeys(atoms(term)) if atom.size > 1)
    shows = weights.showing(own)
    layers = {weights.layer_of(name) for name in shows}
    made = any(atom in own for name in shows for atom in _made_by(weights, name))
    if len(layers) != 1 or not made or taken.intersection(own):
        return None
    if term.kind is not Kind.ATOM:
        return Candidate("width", weight.node, own[0], problem="its channels are no single axis")
    return Candidate("width", weight.node, own[0])


def _made_by(weights: Weights, name: str) -> Iterator[Term]:
    """Atoms of the outputs of a weight; none for other parameters."""
    if (weight := weights.by_name.get(name)) is not None:
        for axis in weight.outputs:
            yield from atoms(axis)
