"""Remove what nothing uses any more: dead nodes, and parameters that no node reads.

Before:  q_proj.weight (dense, unread)   q_proj.down.weight   q_proj.up.weight
After:                                   q_proj.down.weight   q_proj.up.weight
"""

from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.core import edit
from gacfx.core.gacpass import GacPass, register
from gacfx.errors import PassError


@register
@dataclass(frozen=True)
class Clean(GacPass):
    """Dead code elimination that knows that fx leaves replaced parameters behind."""

    name = "clean"

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
    """Parameters that no ``get_attr`` node names; a tied one counts under each of its names."""
    read = {str(node.target) for node in gm.graph.nodes if node.op == "get_attr"}
    return [n for n, _ in gm.named_parameters(remove_duplicate=False) if n not in read]
