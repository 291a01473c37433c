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
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, annotate, forgive, note, refuse
from gacfx.graph.ops import Op
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
        for layer, nodes in copy_runs(gm, carrier_names()):
            annotate(nodes[-1], site=copy_site(layer, nodes, frame))
        return False

    def _annotate(self, node: Node, op: Op, frame: "Frame", shares: Shares) -> None:
        """Give ``node`` its site, or say why it has none."""
        forgive(node, by=self.name)
        if why := unreadable(node):
            refuse(node, by=self.name, reason=why)
            return
        try:
            site = attention_site(node) if op is Op.ATTENTION else matmul_site(node, op, frame)
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
    unknown = next((each.name for each in around if ops.depends_on_data(each)), "")
    return f"the sizes of {unknown} depend on data" if unknown else ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Batch and sequence sizes of the capture; ``seq`` 0 where the input has no sequence."""

    batch: int
    seq: int

    def extent(self, size: int) -> Extent:
        """A flattened row count as a multiple of tokens, of sequences, or a constant."""
        if self.seq and size % (self.batch * self.seq) == 0:
            return Extent(size // (self.batch * self.seq), "token")
        if size % self.batch == 0:
            return Extent(size // self.batch, "sequence")
        return Extent(size)

    def of_activation(self, size: int, unit: str) -> Extent:
        """A size of an activation matmul: the sequence where it equals it, else a constant."""
        if self.seq and size == self.seq:
            return Extent(1, "query" if unit == "query" else "key")
        return Extent(size)


def input_frame(gm: GraphModule) -> Frame:
    """Batch and sequence sizes, read from the first input: ids [B, S] or another [B, ...]."""
    for node in gm.graph.nodes:
        sizes = ops.shape(node) if node.op == "placeholder" else None
        if sizes:
            return Frame(sizes[0], sizes[1] if len(sizes) == 2 else 0)
    return Frame(1, 0)


def site_name(node: Node, weight: str | None) -> str:
    """Module that owns the weight, else the innermost module around the node."""
    if weight is not None:
        return weight.rpartition(".")[0] if weight.endswith(".weight") else weight
    stack = ops.module_stack(node)
    return stack[-1][0] if stack else node.name


def matmul_site(node: Node, op: Op, frame: Frame) -> MatmulSite | None:
    """The site of a linear, addmm, grouped or plain matmul; None for an outer product (K = 1)."""
    if op is Op.GROUPED_MM:
        return _grouped_site(node, frame)
    x, w = ops.operands(node)
    assert isinstance(x, Node) and isinstance(w, Node)
    weight, x_shape, w_shape, out = ops.weight_name(w), ops.shape(x), ops.shape(w), ops.shape(node)
    if x_shape is None or w_shape is None or not out or x_shape[-1] == 1:
        return None
    k, name = x_shape[-1], site_name(node, weight)
    dtype = ops.dtype_name(node)
    if weight is None:
        return _activation_site(name, (*out[-2:], k), prod(out[:-2]), dtype, frame)
    bias = op is Op.ADDMM or any(b is not None for b in (*node.args[2:], node.kwargs.get("bias")))
    return MatmulSite(
        name=name,
        m=frame.extent(prod(out[:-1])),
        k=Extent(k),
        n=Extent(out[-1]),
        dtype=dtype,
        weight=weight,
        layout=Layout.LINEAR if op is Op.LINEAR or ops.transposed(w) else Layout.CONV1D,
        bias=bias,
    )


def _activation_site(
    name: str, sizes: tuple[int, ...], count: int, dtype: str, frame: Frame
) -> MatmulSite:
    m, n, k = sizes
    return MatmulSite(
        name=name,
        m=frame.of_activation(m, "query"),
        k=frame.of_activation(k, "key"),
        n=frame.of_activation(n, "key"),
        dtype=dtype,
        layout=Layout.ACTIVATION,
        count=frame.extent(count),
    )


def _grouped_site(node: Node, frame: Frame) -> MatmulSite | None:
    x, w = ops.operands(node)
    assert isinstance(x, Node) and isinstance(w, Node)
    x_shape, w_shape, weight = ops.shape(x), ops.shape(w), ops.weight_name(w)
    if x_shape is None or w_shape is None:
        return None
    return MatmulSite(
        name=site_name(node, weight),
        m=frame.extent(x_shape[0]),
        k=Extent(w_shape[1]),
        n=Extent(w_shape[2]),
        dtype=ops.dtype_name(node),
        weight=weight,
        layout=Layout.EXPERTS,
        experts=w_shape[0],
    )


def attention_site(node: Node) -> AttentionSite:
    """The site of an SDPA node: the graph's own call, and the eager one where it was recorded."""
    asked = ops.attention_arguments(node)
    query, key, value = (asked[name] for name in ("query", "key", "value"))
    assert isinstance(query, Node) and isinstance(key, Node) and isinstance(value, Node)
    q, k, v = ops.shape(query), ops.shape(key), ops.shape(value)
    assert q and k and v
    chosen = ops.chosen_kernel(node)
    compiled = AttentionCall(
        mask=asked.get("attn_mask") is not None,
        causal=bool(asked.get("is_causal", False)),
        gqa=bool(asked.get("enable_gqa", False)) or (chosen is not None and q[1] != k[1]),
    )
    stack = ops.module_stack(node)
    return AttentionSite(
        name=stack[-1][0] if stack else node.name,
        heads_q=q[1],
        heads_kv=stored_heads(key),
        d_qk=q[-1],
        d_v=v[-1],
        dtype=ops.dtype_name(node if chosen is None else query),
        compiled=compiled,
        eager=note(node).eager or compiled,
        chosen=chosen or "",
    )


def copy_site(layer: str, nodes: list[Node], frame: Frame) -> CopySite:
    """The site of copies that follow each other; rows are those of the last one's result."""
    shapes = [found for node in nodes if (found := ops.shape(node)) is not None]
    rows = max(prod(shapes[-1][:-1]), 1)
    return CopySite(
        name=layer,
        m=frame.extent(rows),
        elements=tuple(ceil(prod(found) / rows) for found in shapes),
        dtype=ops.dtype_name(nodes[-1]),
        what=tuple(word(node) for node in nodes),
    )


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
