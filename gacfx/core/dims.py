"""Dims: free sizes of a model, where each of them shows, and which must be chosen together.

The coupling graph (networkx) has one node for each dim and one for each of its uses; the groups of
dims that are chosen together are its connected components.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import networkx as nx


@dataclass(frozen=True, slots=True, order=True)
class DimUse:
    """One place where a dim shows: an axis of a parameter."""

    weight: str
    """Fully qualified name of the parameter."""
    axis: int
    """Axis of the parameter's tensor."""
    times: int
    """Elements of that axis for one unit of the dim: 4 for a KV head with 4 query heads of width 1,
    counted over all positions of the dim in the axis."""


@dataclass(frozen=True, slots=True)
class Dim:
    """One free size and every place where it shows."""

    name: str
    size: int
    uses: tuple[DimUse, ...]
    frozen: str = ""
    """Why this size may not change; empty when it is free."""


@dataclass(frozen=True)
class Dims:
    """All dims of a model, in a fixed order."""

    dims: tuple[Dim, ...]
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameter -> one text for each axis: how it is built of dims, for example ``(d2*d3)+d4``."""
    notes: tuple[str, ...] = ()
    """What the analysis could not follow and therefore froze."""

    def graph(self) -> "nx.Graph[str]":
        """The coupling graph; node attribute ``kind`` is ``dim`` or ``use``."""
        graph: nx.Graph[str] = nx.Graph()
        for dim in self.dims:
            graph.add_node(dim.name, kind="dim", size=dim.size, frozen=dim.frozen)
            for use in dim.uses:
                label = f"{use.weight}[{use.axis}]"
                graph.add_node(label, kind="use")
                graph.add_edge(dim.name, label, times=use.times)
        return graph

    def groups(self) -> tuple[tuple[Dim, ...], ...]:
        """Free dims that are chosen together: the connected components of the coupling graph.

        Frozen dims are taken out first. They are constants: a rotary table shows in every layer,
        and yet the heads of one layer may be chosen without regard to those of another.

        Returns:
            Groups in order of their first dim, each in the order of ``dims``.
        """
        graph = self.graph()
        graph.remove_nodes_from([dim.name for dim in self.dims if dim.frozen])
        components = nx.connected_components(graph)
        number = {name: at for at, component in enumerate(components) for name in component}
        groups: dict[int, list[Dim]] = {}
        for dim in self.free():
            groups.setdefault(number[dim.name], []).append(dim)
        return tuple(map(tuple, groups.values()))

    def of(self, weight: str) -> tuple[Dim, ...]:
        """The dims that show in one parameter."""
        return tuple(d for d in self.dims if any(u.weight == weight for u in d.uses))

    def free(self) -> tuple[Dim, ...]:
        """The dims whose size may change."""
        return tuple(d for d in self.dims if not d.frozen)


def to_dot(dims: Dims, keep: Iterable[str] | None = None) -> str:
    """The coupling graph as Graphviz DOT text; ``keep`` limits it to some dims by name."""
    wanted = set(keep) if keep is not None else {d.name for d in dims.dims}
    lines = ["graph coupling {", "  rankdir=LR;", "  node [fontname=Helvetica];"]
    for dim in dims.dims:
        if dim.name not in wanted:
            continue
        style = "style=dashed" if dim.frozen else "style=filled fillcolor=lightblue"
        lines.append(f'  "{dim.name}" [shape=ellipse {style} label="{dim.name}\\n{dim.size}"];')
        for use in dim.uses:
            label = f"{use.weight}[{use.axis}]"
            lines.append(f'  "{label}" [shape=box];')
            times = f' [label="x{use.times}"]' if use.times != 1 else ""
            lines.append(f'  "{dim.name}" -- "{label}"{times};')
    return "\n".join([*lines, "}"]) + "\n"
