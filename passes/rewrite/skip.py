"""Take whole blocks out of a graph: what they add to the residual stream becomes zeros.

Before:  add(x, down_proj(silu(gate_proj(h)) * up_proj(h)))
After:   add(x, zeros_like(h))
"""

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from gacfx.errors import PassError
from gacfx.graph import edit, ops
from gacfx.graph.ops import aten
from gacfx.passes.rewrite.clean import unread_parameters
from gacfx.passes.rewrite.factorize import operands


@dataclass(frozen=True, eq=False)
class Block:
    """A block that goes.

    Raises:
        PassError: it gives another shape or dtype than it reads.
    """

    name: str
    """Of its module."""
    opening: Node
    """A matmul that reads what the block reads."""
    closing: Node
    """The matmul that gives what the block gives."""

    def __post_init__(self) -> None:
        read, given = _like(self.reads), _like(self.closing)
        if read != given:
            raise PassError(
                f"prune: {self.name}: reads {read} and gives {given}, so no zeros like its input "
                "can stand for it; keep the block"
            )

    @property
    def reads(self) -> Node:
        """What the block reads."""
        return operands(self.opening)[0]


def skip_block(gm: GraphModule, block: Block) -> None:
    """Replace a block by zeros, and remove its nodes and the parameters that only it read."""
    unread = set(unread_parameters(gm))
    path, kind = (ops.module_stack(block.closing) or ((block.name, ""),))[-1]
    build = edit.Build(gm, block.closing, path, kind)
    zeros = build.call(aten.zeros_like.default, (block.reads,))
    edit.replace_node(gm, block.closing, zeros)
    gm.graph.eliminate_dead_code(lambda node: _has_effect(node, block.name))
    for name in unread_parameters(gm):
        if name not in unread:
            edit.delete_parameter(gm, name)


def _like(node: Node) -> str:
    shape = ops.shape(node) or ()
    return f"{' x '.join(map(str, shape))} {ops.dtype_name(node)}"


def _has_effect(node: Node, block: str) -> bool:
    """The node must stay though nobody uses it.

    Inside the block that is no assertion, and no draw of random numbers, which attention counts as
    because of its dropout: only a change of some tensor.
    """
    if any(path == block for path, _ in ops.module_stack(node)):
        schema = getattr(node.target, "_schema", None)
        return schema is not None and bool(schema.is_mutable)
    return bool(node.is_impure())
