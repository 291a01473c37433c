"""Where a model has units: attentions with their heads, and layers that read channels of others.

scaled_dot_product_attention   heads of its result: kv heads x query heads of each
down_proj                      its inputs, where they are outputs of layers beside it
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch.fx import Node

from gacfx.coupling.attentions import Attention
from gacfx.coupling.terms import Kind, Term, atoms, find
from gacfx.coupling.weights import Weight, Weights
from gacfx.graph import ops

_REPEATS = ("view", "reshape", "_unsafe_view", "expand", "unsqueeze", "repeat_interleave")
_MOVES = (*_REPEATS, "transpose", "permute", "clone", "contiguous", "to", "_to_copy", "detach")


@dataclass(frozen=True, eq=False)
class Candidate:
    """Units that may go together, before anybody asked whether they may."""

    kind: Literal["width", "heads"]
    node: Node
    """The attention, or the matmul that reads the channels."""
    layer: str
    """The repeated layer that it runs in; empty outside of all."""
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
    heads = [_heads(weights, attention) for attention in weights.attentions]
    axes = (axis for candidate in heads for axis in weights.axes(candidate.node))
    taken = {atom for axis in axes for atom in atoms(axis)}
    widths = [_width(weights, weight, taken) for weight in weights.by_name.values()]
    found = (*heads, *(width for width in widths if width is not None))
    # Two layers may read the same channels, and a layer may run twice.
    once = {(each.layer, each.atoms or each.node): each for each in reversed(found)}
    return tuple(each for each in found if each in once.values())


# -- attention ------------------------------------------------------------------------------------


def _heads(weights: Weights, attention: Attention) -> Candidate:
    node = attention.node
    axes, layer = weights.axes(node), weights.layer_around(node)
    if len(axes) < 3:
        return Candidate("heads", node, layer, None, problem="its heads are no axis of their own")
    found = [atom for atom in dict.fromkeys(atoms(axes[-3])) if atom.size > 1]
    stored = set(_atoms_before_repeat(weights, attention.values))
    units = [atom for atom in found if atom in stored]
    heads = [atom for atom in found if atom not in stored]
    problem = ""
    if not found:
        problem = "it has one head"
    elif len(units) > 1 or len(heads) > 1:
        problem = "its heads are made of several axes"
    elif _crosses(weights, attention):
        problem = "cross attention"
    unit, head = units[0] if units else None, heads[0] if heads else None
    return Candidate("heads", node, layer, unit, head, problem)


def _atoms_before_repeat(weights: Weights, node: object) -> Iterator[Term]:
    """Atoms of the values before they were repeated for every query head of their group."""
    while isinstance(node, Node) and ops.short_name(node) in _MOVES:
        node = node.args[0]
    if isinstance(node, Node):
        for axis in weights.axes(node):
            yield from atoms(axis)


def _crosses(weights: Weights, attention: Attention) -> bool:
    """Keys come from another sequence than queries."""
    query, key = (weights.axes(n)[-2:-1] for n in (attention.queries_of, attention.keys_of))
    return [a for t in query for a in atoms(t)] != [a for t in key for a in atoms(t)]


def read_by(weights: Weights, node: Node) -> tuple[Weight, ...]:
    """The layers whose results alone an attention reads, in graph order."""
    by_node = {weight.node: weight for weight in weights.by_name.values()}
    seen: set[Node] = set()
    todo = list(node.all_input_nodes)
    while todo:
        here = todo.pop()
        if here not in seen:
            seen.add(here)
            todo += [] if here in by_node else here.all_input_nodes
    return tuple(weight for each, weight in by_node.items() if each in seen)


# -- channels -------------------------------------------------------------------------------------


def _width(weights: Weights, weight: Weight, taken: set[Term]) -> Candidate | None:
    """The channels that ``weight`` reads; None for those of attentions and the residual stream."""
    if not (read := weights.axes(weight.source)):
        return None
    term = find(read[-1])
    own = tuple(atom for atom in dict.fromkeys(atoms(term)) if atom.size > 1)
    shows = weights.showing(own)
    layers = map(weights.layer_of, shows)
    layer = next(layers, None)
    # Most are of the residual stream, which all layers show: the second one is enough.
    if layer is None or taken.intersection(own) or any(other != layer for other in layers):
        return None
    made = any(atom in own for name in shows for atom in _made_by(weights, name))
    # Behind an operator that nobody knows are channels, but nobody knows whose.
    made |= any(atom.frozen.startswith("opaque") for atom in own) and layer != ""
    if not made:
        return None
    problem = "" if term.kind is Kind.ATOM else "its channels are no single axis"
    return Candidate("width", weight.node, layer, own[0], problem=problem)


def _made_by(weights: Weights, name: str) -> Iterator[Term]:
    """Atoms of the outputs of a weight; none for other parameters."""
    if (weight := weights.by_name.get(name)) is not None:
        for axis in weight.outputs:
            yield from atoms(axis)
