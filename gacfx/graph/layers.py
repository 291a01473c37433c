"""Repeated layers: which numbers in module names count layers, and which are names like any other.

    model.layers.3.mlp.up_proj   layers is a ModuleList, which is never called itself: layer 3
    blocks.3.mlp.up_proj         blocks is a Sequential of blocks of one class: layer 3
    lm_head.0                    lm_head is a Sequential, and its 0 is the linear itself: no layer

A graph knows the modules that were called, by name and class, and a list of modules by nothing but
the names of its elements.
"""

from collections import Counter
from collections.abc import Iterable

from torch.fx import GraphModule, Node

from gacfx.graph.ops import module_stack


def layers_of(gm: GraphModule) -> frozenset[str]:
    """Names of the layers of every stack in ``gm``: ``model.layers.0``, ``model.layers.1``, ..."""
    called = {path: kind for node in gm.graph.nodes for path, kind in module_stack(node)}
    parents = {path.rpartition(".")[0] for path in called}
    numbered = [path for path in called if path.rpartition(".")[2].isdigit()]
    listed = {path for path in numbered if path.rpartition(".")[0] not in called}
    # A container that is called runs anything in a row: only blocks that are alike are layers.
    blocks = {p: (p.rpartition(".")[0], called[p]) for p in numbered if p in parents - listed}
    alike = Counter(blocks.values())
    return frozenset(listed | {path for path, kind in blocks.items() if alike[kind] > 1})


def in_layer(node: Node, layers: frozenset[str]) -> bool:
    """The node runs inside one of these layers."""
    return any(path in layers for path, _ in module_stack(node))


def split_layer(name: str) -> tuple[str, str, str]:
    """(``model.layers``, ``3``, ``mlp.up_proj``); (``""``, ``""``, name) without a layer.

    A number at the end of a name is that of a linear, and of no layer that contains it.
    """
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), None)
    if at is None:
        return "", "", name
    return ".".join(parts[:at]), parts[at], ".".join(parts[at + 1 :])


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,5`` for 0, 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
