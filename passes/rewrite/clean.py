"""Remove what nothing uses any more: dead nodes, and parameters that no node reads.

Before:  q_proj.weight (dense, unread)   q_proj.down.weight   q_proj.up.weight
After:                                   q_proj.down.weight   q_proj.up.weight
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.errors import PassError
from gacfx.graph import edit
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact


@register
@dataclass(frozen=True)
class Clean(GacPass):
    """Dead code elimination that knows that fx leaves replaced parameters behind."""

    name = "clean"
    drops = frozenset({Fact.DIMS})

    def run(self, gm: GraphModule) -> bool:
        changed = gm.graph.eliminate_dead_code()
        for name in unread_parameters(gm):
            edit.delete_parameter(gm, name)
            changed = True
        return changed

    def verify(self, gm: GraphModule) -> None:
        if left := unread_parameters(gm):
            raise PassError(f"{self.name}: {left[0]} is still there and nothing reads it")


def unread_parameters(gm: GraphModule) -> list[str]:
    """Parameters that no node reads, alone or inside a module that it calls.

    A tied parameter counts under each of its names.
    """
    calls = ("get_attr", "call_module")
    read = {str(node.target) for node in gm.graph.nodes if node.op in calls}
    names = [name for name, _ in gm.named_parameters(remove_duplicate=False)]
    return [name for name in names if read.isdisjoint(_prefixes(name))]


def _prefixes(name: str) -> list[str]:
    """``a.b.c`` -> a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
