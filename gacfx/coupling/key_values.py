"""Keys and values: which layers alone make them for an attention, and of how many heads.

    k_proj [512, 4096]  keys    its outputs are 4 heads of 128, one after the other
    v_proj [512, 4096]  values  the same
    q_proj              nothing: it makes queries

Read from the captured graph without a name: what an attention is given as keys is followed back to
the layers that it was made by, through norms and rotary embeddings.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from gacfx.core.sites import MatmulSite
from gacfx.core.structures import Positions, Structure
from gacfx.coupling.attentions import Attention, attentions
from gacfx.coupling.structures import coupled_structures
from gacfx.graph.notes import note, state

NEITHER = "makes neither keys nor values of an attention"


@dataclass(frozen=True, eq=False)
class KeyValues:
    """What the layers of a graph make of keys and values."""

    heads: dict[str, int]
    """Module -> key-value heads that its outputs are, one after the other."""
    problems: dict[str, str]
    """Module that has a part in keys or values -> why it is none of those."""

    def reason(self, module: str) -> str:
        """Why a module is none of those; empty where it is one."""
        return "" if module in self.heads else self.problems.get(module, NEITHER)


def key_values(gm: GraphModule) -> KeyValues:
    """The layers that make keys or values.

    Args:
        gm: with its sites, and with coupled structures or fake values to find them by.

    Raises:
        CaptureError: the graph has no fake values.
    """
    structures = state(gm).structures
    structures = coupled_structures(gm) if structures is None else structures
    of_heads = _positions(structures)
    parameters, writes = {name for name, _ in gm.named_parameters()}, _writes(gm)
    heads, problems = dict[str, int](), dict[str, str]()
    for attention in attentions(gm.graph.nodes):
        for module, reason in _parts(attention, parameters, writes).items():
            found, odd = _heads_of(of_heads.get(module))
            if reason := reason or odd:
                problems[module] = reason
            else:
                heads[module] = found
    # A layer may run for several attentions, and must serve all of them.
    return KeyValues({m: n for m, n in heads.items() if m not in problems}, problems)


def _parts(
    attention: Attention, parameters: set[str], writes: Mapping[Node, list[Node]]
) -> dict[str, str]:
    """Module that keys or values are made by -> why it is not the only one, or does more."""
    roles = {"queries": attention.queries, "keys": attention.keys, "values": attention.values}
    made_by = {role: _makers(node, parameters, writes) for role, node in roles.items()}
    does = defaultdict[str, list[str]](list)
    for role, makers in made_by.items():
        for module in makers:
            does[module].append(role)
    found = dict[str, str]()
    for role in ("keys", "values"):
        makers = made_by[role]
        for module in makers:
            reason = ""
            if len(makers) > 1:
                reason = f"several layers make the {role} of an attention: {_names(makers)}"
            if len(does[module]) > 1:
                reason = f"it makes {' and '.join(does[module])} of an attention at once"
            found[module] = reason
    return found


def _makers(
    node: Node | None, parameters: set[str], writes: Mapping[Node, list[Node]]
) -> tuple[str, ...]:
    """The layers whose results a node is made of, in no other layer's; in order of first sight."""
    found, seen, todo = dict[str, None](), set[Node](), [node] if node is not None else []
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        site = note(here).site
        if isinstance(site, MatmulSite) and site.weight in parameters:
            found[site.name] = None
        else:
            todo += [*here.all_input_nodes, *writes.get(here, ())]
    return tuple(found)


def _writes(gm: GraphModule) -> dict[Node, list[Node]]:
    """Node -> what is written into its memory afterwards, as DeepSeek fills its keys."""
    found = defaultdict[Node, list[Node]](list)
    for node in gm.graph.nodes:
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            first, *others = node.all_input_nodes
            while isinstance(first.target, OpOverload) and first.target.is_view:
                found[first] += others
                first = first.all_input_nodes[0]
            found[first] += others
    return found


def _positions(structures: Iterable[Structure]) -> dict[str, Positions | None]:
    """Module -> the heads along its outputs, of the weights of attentions."""
    return {
        member.module: member.outputs
        for structure in structures
        if structure.kind == "heads"
        for member in structure.members
        if not member.closes
    }


def _heads_of(outputs: Positions | None) -> tuple[int, str]:
    """(heads that outputs are, one after the other; why they are none)."""
    if outputs is None:
        return 0, "the heads of its outputs are not known"
    units = outputs.units
    count = int(units.max()) + 1
    in_order = np.repeat(np.arange(count), len(units) // max(count, 1))
    if count < 1 or not np.array_equal(units, in_order):
        return 0, "the heads of its outputs do not come one after the other"
    return count, ""


def _names(modules: Iterable[str]) -> str:
    return ", ".join(sorted(module.rpartition(".")[2] for module in modules))
