"""Sizes that are written in a graph, after sizes of the model have changed.

Before:  view(q_proj, [3, 17, -1, 8])   expand(k, [3, 2, 3, 17, 8])   split(qkv, [48, 16, 16])
After:   view(q_proj, [3, 17, -1, 8])   expand(k, [3, 2, 2, 17, 8])   split(qkv, [32, 16, 16])

The numbers come from the axis terms of a coupling analysis. An operator that is not in the tables
below has no such number, or one that freezes the axis that it speaks of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from gacfx.coupling.resized import Sizes, border, changes
from gacfx.coupling.rules import Value
from gacfx.coupling.terms import Axes, Conflict, Term, resized
from gacfx.errors import PassError
from gacfx.graph import ops
from gacfx.graph.ops import aten


@dataclass(frozen=True)
class _Call:
    """One node, and what is known of its axes."""

    node: Node
    values: Mapping[Node, Value]
    sizes: Sizes

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument as the graph has it."""
        at = self._place(name)
        given = self.node.args[at] if at < len(self.node.args) else self.node.kwargs.get(name)
        return default if given is None else given

    def write(self, name: str, given: Any) -> None:
        """Put another value in the place of an argument that is there already, or add it."""
        at = self._place(name)
        if at < len(self.node.args):
            self.node.update_arg(at, given)
        else:
            self.node.update_kwarg(name, given)

    def axes(self, source: Node) -> Axes:
        """Axes of a node that computes one tensor."""
        found = self.values[source]
        assert isinstance(found, tuple)
        return found

    @property
    def results(self) -> list[Axes]:
        """Axes of every tensor that the node computes."""
        found = self.values[self.node]
        several = found if isinstance(found, list) else [found]
        return [axes for axes in several if axes is not None]

    def size(self, term: Term) -> int:
        """The new size of an axis."""
        return resized(term, self.sizes)

    @property
    def names(self) -> list[str]:
        """Names of the arguments that the operator takes, in order."""
        assert isinstance(self.node.target, OpOverload)
        return [argument.name for argument in self.node.target._schema.arguments]

    def _place(self, name: str) -> int:
        return self.names.index(name)


def rewrite_sizes(gm: GraphModule, values: Mapping[Node, Value], sizes: Sizes) -> None:
    """Write the new sizes into every node that has one of them as a number.

    Args:
        gm: the graph; its fake values stay as they were, for the refresh that follows.
        values: node -> axes, of a finished interpretation of this graph.
        sizes: of the terms that change.

    Raises:
        PassError: a number cuts through something that changes.
    """
    for node in list(gm.graph.nodes):
        rewrite = _REWRITES.get(ops.short_name(node)) if node.op == "call_function" else None
        call = _Call(node, values, sizes)
        if rewrite is None or not any(changes(term, sizes) for term in _around(call)):
            continue
        try:
            rewrite(call)
        except Conflict as error:
            raise PassError(f"{node.name} = {node.target}: {error}") from error


def _around(call: _Call) -> list[Term]:
    """Every axis of what goes in and what comes out."""
    found = [call.values[source] for source in call.node.all_input_nodes]
    axes = [each for each in found if isinstance(each, tuple)] + call.results
    return [term for each in axes for term in each]


def _write_sizes(call: _Call, name: str, terms: Axes) -> None:
    """A list of sizes; -1 says "what is left", which stays true, as does a computed size."""
    pairs = zip(call.argument(name), terms, strict=True)
    call.write(name, [_size(call, old, term) for old, term in pairs])


def _size(call: _Call, old: int | Node, term: Term) -> int | Node:
    if isinstance(old, Node):
        if changes(term, call.sizes):
            raise Conflict(f"its size {old.name} is computed, and changes")
        return old
    return -1 if old == -1 else call.size(term)


def _shape(call: _Call) -> None:
    """The whole shape of the result; a view as another dtype has none."""
    for name in ("size", "shape"):
        if name in call.names:
            _write_sizes(call, name, call.results[0])


def _unflatten(call: _Call) -> None:
    """Sizes of the axes that one axis becomes."""
    source = call.axes(call.argument("self"))
    at = call.argument("dim") % len(source)
    count = len(call.argument("sizes"))
    _write_sizes(call, "sizes", call.results[0][at : at + count])


def _split(call: _Call) -> None:
    """Sizes of consecutive parts; listed where they become unlike."""
    dim = call.argument("dim", 0)
    parts = [call.size(axes[dim]) for axes in call.results]
    into = call.names[1]
    if not isinstance(call.argument(into), list | tuple) and len(set(parts)) == 1:
        if into == "split_size":  # a number of chunks stays
            call.write(into, parts[0])
        return
    call.node.target = aten.split_with_sizes.default
    call.node.args = (call.argument("self"), parts, dim)
    call.node.kwargs = {}


def _slice(call: _Call) -> None:
    """Start and end; with a step, units of so many neighbours go, and the start stays."""
    dim = call.argument("dim", 0)
    axis = call.axes(call.argument("self"))[dim]
    if not changes(axis, call.sizes):
        return
    bounds = (call.argument("start"), call.argument("end"), call.argument("step", 1))
    if computed := [bound for bound in bounds if isinstance(bound, Node)]:
        raise Conflict(f"its bound {computed[0].name} is computed, and the axis changes")
    low, high, step = slice(*bounds).indices(axis.size)
    if step == 1:
        call.write("start", border(axis, low, call.sizes))
    elif high < axis.size or call.size(call.results[0][dim]) * step != call.size(axis):
        raise Conflict(f"every {step}th element of a size of {axis.size} that changes")
    if high < axis.size:
        call.write("end", border(axis, max(low, high), call.sizes))
    elif (call.argument("end", axis.size)) <= axis.size:
        call.write("end", resized(axis, call.sizes))


def _repeat_interleave(call: _Call) -> None:
    """How often each element is repeated, and what that makes."""
    dim = call.argument("dim")
    before, after = call.axes(call.argument("self"))[dim], call.results[0][dim]
    call.write("repeats", call.size(after) // call.size(before))
    if call.argument("output_size") is not None:
        call.write("output_size", call.size(after))


_REWRITES: dict[str, Callable[[_Call], None]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "expand", "broadcast_to"), _shape),
    **dict.fromkeys(("zeros", "ones", "empty", "full"), _shape),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), _shape),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "unflatten": _unflatten,
    "slice": _slice,
    "repeat_interleave": _repeat_interleave,
}
