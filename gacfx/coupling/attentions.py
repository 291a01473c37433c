"""Attentions of a graph: the fused operator, or a softmax that is multiplied with values.

scaled_dot_product_attention(q, k, v)
matmul(dropout(softmax(..)), v)          what ``attn_implementation="eager"`` makes of it
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch.fx import Node

from gacfx.graph import ops
from gacfx.graph.ops import Op

_OPERANDS = ("query", "key", "value")
_BETWEEN = ("dropout", "to", "_to_copy", "type_as", "clone", "contiguous", "slice", "mul")
"""What may stand between softmax and values."""
_MASKED = ("add", "sub", "div", "masked_fill", "tanh")
"""What may stand between the product of queries and keys and the softmax, besides."""


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention and where its operands are."""

    node: Node
    """Gives [.., heads, queries, width]."""
    values: Node
    """[.., heads, keys, width]"""
    queries_of: Node
    """Its last axis but one runs over queries."""
    keys_of: Node
    """Its last axis but one runs over keys."""
    queries: Node | None = None
    """What keys are multiplied with; None where that is not known."""
    keys: Node | None = None
    """The same, or its transpose; None where that is not known."""


def attentions(nodes: Iterable[Node]) -> tuple[Attention, ...]:
    """All attentions, in graph order."""
    found = (_attention(node) for node in nodes)
    return tuple(each for each in found if each is not None)


def _attention(node: Node) -> Attention | None:
    op = ops.op_of(node)
    if ops.chosen_kernel(node) is not None:
        return None  # it has several results, and no rule follows its axes
    if op is Op.ATTENTION:
        given = {**dict(zip(_OPERANDS, node.args, strict=False)), **node.kwargs}
        query, key, value = (given[name] for name in _OPERANDS)
        assert isinstance(query, Node) and isinstance(key, Node) and isinstance(value, Node)
        return Attention(node, value, query, key, query, key)
    if op is not Op.MATMUL or len(ops.shape(node) or ()) < 4:
        return None
    scores, values = ops.operands(node)
    assert isinstance(values, Node)
    softmax = _softmax(scores)
    if softmax is None:
        return None
    return Attention(node, values, node, values, *_scored(softmax.args[0]))


def _softmax(node: object) -> Node | None:
    while isinstance(node, Node) and ops.short_name(node) in _BETWEEN:
        node = node.args[0]
    found = isinstance(node, Node) and ops.short_name(node) in ("softmax", "_softmax")
    return node if found and isinstance(node, Node) else None


def _scored(node: object) -> tuple[Node | None, Node | None]:
    """(queries, keys) whose product a softmax is taken of, scaled and masked in between."""
    while isinstance(node, Node) and ops.short_name(node) in (*_BETWEEN, *_MASKED):
        node = node.args[0]
    if not isinstance(node, Node) or ops.op_of(node) is not Op.MATMUL:
        return None, None
    query, key = ops.operands(node)
    return (query, key) if isinstance(query, Node) and isinstance(key, Node) else (None, None)
