"""Say of every node whose time counts which operation it is: node -> site note.

Those are matmul and attention nodes, and the copies inside compressed layers: the last one of each
run has the note.

Before:  linear_3 = aten.linear(silu, model.layers.0.self_attn.q_proj.weight)
After:   linear_3  model.layers.0.self_attn.q_proj  1 x token x 4096 x 4096  bf16
"""

from dataclasses import dataclass
from math import ceil, prod

from torch.fx import GraphModule, Node

from gacfx.core.sites import AttentionCall, AttentionSite, CopySite, Extent, Layout, MatmulSite
from gacfx.graph import ops
from gacfx.graph.copies import copy_runs, word
from gacfx.graph.experts import Shares, routed, seen_by_experts
from gacfx.graph.frame import Frame, input_frame
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, annotate, forgive, note, refuse
from gacfx.graph.ops import Op
from gacfx.graph.products import NotUnderstood, Product, product_of
from gacfx.graph.readable import check_readable
from gacfx.modules.make import carrier_names


@register
@dataclass(frozen=True)
class AnnotateSites(GacPass):
    """Annotate matmuls, attention and the copies of compressed layers with growing sizes."""

    name = "annotate-sites"
    gives = frozenset({Fact.SITES})

    def run(self, gm: GraphModule) -> bool:
        check_readable(gm, self.name)
        frame, shares = input_frame(gm), routed(gm)
        for node in gm.graph.nodes:
            if (op := ops.op_of(node)) is not None:
                self._annotate(node, op, frame, shares)
            elif ops.without_site(node):
                forgive(node, by=self.name)
                refuse(node, by=self.name, reason="its products are not modelled")
        for layer, nodes in copy_runs(gm, carrier_names()):
            annotate(nodes[-1], site=copy_site(layer, nodes, frame))
        return False

    def _annotate(self, node: Node, op: Op, frame: Frame, shares: Shares) -> None:
        """Give ``node`` its site, or say why it has none."""
        forgive(node, by=self.name)
        if why := unreadable(node):
            refuse(node, by=self.name, reason=why)
            return
        try:
            of = attention_site if op is Op.ATTENTION else matmul_site
            site = of(node, op, frame)
        except NotUnderstood as error:
            refuse(node, by=self.name, reason=str(error))
            return
        except Exception as error:  # one node that is read wrongly must not hide all others
            refuse(node, by=self.name, reason=f"not understood ({type(error).__name__}: {error})")
            return
        if isinstance(site, MatmulSite):
            site = seen_by_experts(site, node, shares)
        annotate(node, site=site)
        if op is Op.ATTENTION and ops.chosen_kernel(node) is not None:
            why = f"torch chose {ops.short_name(node)} when it compiled"
            refuse(node, by=self.name, reason=why)
        elif op is Op.ATTENTION and note(node).eager is None:
            why = "the eager call could not be recorded; the graph's own call is shown"
            refuse(node, by=self.name, reason=why)


def unreadable(node: Node) -> str:
    """Why nothing can be said of the sizes of a node; empty where something can."""
    around = (*node.all_input_nodes, node)
    return "its sizes depend on data" if any(map(ops.depends_on_data, around)) else ""


def site_name(node: Node, weight: str | None) -> str:
    """Module that owns the weight, else the innermost module around the node."""
    if weight is not None:
        return weight.rpartition(".")[0] if weight.endswith(".weight") else weight
    stack = ops.module_stack(node)
    return stack[-1][0] if stack else node.name


def matmul_site(node: Node, op: Op, frame: Frame) -> MatmulSite | None:
    """The site of any product but attention; None for an outer product, which sums nothing up.

    Raises:
        NotUnderstood: the sizes cannot be told.
    """
    found = product_of(node, op)
    if found.outer:
        return None
    experts = found.count[0] if found.layout is Layout.EXPERTS else 1
    sizes = _of_activations if found.layout is Layout.ACTIVATION else _of_weight
    m, k, n, count = sizes(found, frame, site_name(node, None))
    return MatmulSite(
        name=site_name(node, found.weight),
        m=m,
        k=k,
        n=n,
        dtype=ops.dtype_name(node.all_input_nodes[0] if ops.name_of(node) in _CASTS else node),
        weight=found.weight,
        layout=found.layout,
        bias=_has_bias(node, op),
        count=count if experts == 1 else Extent(1),
        experts=experts,
    )


_CASTS = ("_scaled_mm", "_scaled_grouped_mm", "_int_mm")
"""Operators whose result is in another dtype than they multiply in."""
_SITED = tuple[Extent, Extent, Extent, Extent]


def _of_activations(found: Product, frame: Frame, module: str) -> _SITED:
    """(M, K, N, count): each axis grows, or is a size of the model."""
    m = frame.of_activation(found.m, "query")
    k, n = (frame.of_activation(sizes, "key") for sizes in (found.k, found.n))
    return m, k, n, frame.times(found.count, (*found.m, *found.k, *found.n), module)


def _of_weight(found: Product, frame: Frame, _: str) -> _SITED:
    """The same with a weight, whose own sizes are constants."""
    window = prod(found.k) if found.layout is Layout.CONVOLUTION else 0
    m, k, n = frame.rows(found.m, window), Extent(prod(found.k)), Extent(prod(found.n))
    return m, k, n, Extent(prod(found.count))


_BIAS_AT = {Op.LINEAR: 2, Op.CONV: 2, Op.GROUPED_MM: 3, Op.MATMUL: 4}


def _has_bias(node: Node, op: Op) -> bool:
    if op in (Op.ADDMM, Op.BADDBMM):
        return True
    return op in _BIAS_AT and ops.argument(node, "bias", _BIAS_AT[op]) is not None


def attention_site(node: Node, _: Op, frame: Frame) -> AttentionSite:
    """The site of an SDPA node: the graph's own call, and the eager one where it was recorded.

    Raises:
        NotUnderstood: it has no batch.
    """
    asked = ops.attention_arguments(node)
    query, key, value = (asked[name] for name in ("query", "key", "value"))
    assert isinstance(query, Node) and isinstance(key, Node) and isinstance(value, Node)
    q, k, v = ops.shape(query), ops.shape(key), ops.shape(value)
    if not q or not k or not v or len(q) < 3:
        raise NotUnderstood("attention without a batch axis")
    chosen = ops.chosen_kernel(node)
    compiled = AttentionCall(
        mask=asked.get("attn_mask") is not None,
        causal=bool(asked.get("is_causal", False)),
        gqa=bool(asked.get("enable_gqa", False)) or (chosen is not None and q[1] != k[1]),
    )
    stack = ops.module_stack(node)
    return AttentionSite(
        name=stack[-1][0] if stack else node.name,
        heads_q=frame.heads(q),
        heads_kv=stored_heads(key) if len(k) > 3 else frame.heads(k),
        d_qk=q[-1],
        d_v=v[-1],
        dtype=ops.dtype_name(query),
        compiled=compiled,
        eager=note(node).eager or compiled,
        chosen=chosen or "",
    )


def copy_site(layer: str, nodes: list[Node], frame: Frame) -> CopySite:
    """The site of copies that follow each other; rows are those of the last one's result, and as
    many for any input where all of them copy weights."""
    shapes = [found for node in nodes if (found := ops.shape(node)) is not None]
    rows = max(prod(shapes[-1][:-1]), 1)
    return CopySite(
        name=layer,
        m=Extent(rows) if all(map(_copies_weights, nodes)) else frame.extent(rows),
        elements=tuple(ceil(prod(found) / rows) for found in shapes),
        dtype=ops.dtype_name(nodes[-1]),
        what=tuple(word(node) for node in nodes),
    )


def _copies_weights(node: Node) -> bool:
    return all(source.op == "get_attr" for source in node.all_input_nodes)


def stored_heads(key: Node) -> int:
    """Heads of K before ``repeat_kv`` (expand [B, H, 1, S, D], then reshape) repeated them."""
    heads, node = ops.shape(key), key
    assert heads is not None
    for _ in range(6):
        kind, source = ops.short_name(node), node.args[0] if node.args else None
        if not isinstance(source, Node) or kind not in ("expand", "reshape", "view", "clone"):
            break
        before, after = ops.shape(source), ops.shape(node)
        if kind == "expand" and before and after and len(before) == 5 and before[2] < after[2]:
            return before[1]
        node = source
    return heads[1]
