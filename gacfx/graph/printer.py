"""The graph as readable text: one line for each node, notes beside the sites."""

from torch.fx import GraphModule, Node

from gacfx.core.sites import AttentionSite, CopySite, Extent, Site
from gacfx.graph import ops
from gacfx.graph.notes import Note, note


def annotated_code(gm: GraphModule) -> str:
    """Every node as ``name = op(args)`` with its shape, and what the notes say of it."""
    lines = []
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            continue
        if node.op == "output":
            lines.append(f"return {_args(node)}")
            continue
        known = note(node)
        lines.append(f"{node.name} = {ops.call_name(node)}({_args(node)}){_shape(node)}")
        if known.site is not None:
            lines.append(f"    # {site_text(known.site)}{_verdict(known)}")
        elif known.refusals:
            lines.append(f"    # no site{_verdict(known)}")
    return "\n".join(lines) + "\n"


def site_text(site: Site) -> str:
    """``q_proj  token x 4096 x 1107 bf16``: one site, its growing sizes by name."""
    if isinstance(site, AttentionSite):
        heads = f"{site.heads_q} over {site.heads_kv} heads"
        return f"{site.name}  {heads}, d_qk {site.d_qk}, d_v {site.d_v}, {site.dtype}"
    if isinstance(site, CopySite):
        sizes = " x ".join((extent_text(site.m), elements_text(site)))
        return f"{site.name}  {sizes} {site.dtype}"
    sizes = " x ".join(extent_text(e) for e in (site.m, site.k, site.n))
    many = f" of {site.experts} experts" if site.experts > 1 else ""
    return f"{site.name}  {sizes} {site.dtype}{many}"


def elements_text(site: CopySite) -> str:
    """``4096``; ``4096, 2048`` where kernels differ."""
    return ", ".join(map(str, dict.fromkeys(site.elements)))


def extent_text(extent: Extent) -> str:
    """``4096``, ``token``, ``2 token``, ``2/8 token``, ``32 chunk of 64``."""
    if extent.of == "chunk":
        return f"{extent.times} chunk of {extent.per}"
    times = str(extent.times) if extent.per == 1 else f"{extent.times}/{extent.per}"
    if extent.of == "one":
        return times
    return extent.of if times == "1" else f"{times} {extent.of}"


def _verdict(known: Note) -> str:
    parts = []
    if known.tier is not None:
        parts.append(f"tier {known.tier.tier} {known.tier.kernel} {known.tier.reason}".rstrip())
    if known.latency_us is not None:
        parts.append(f"{known.latency_us:.1f} us")
    parts += [f"{r.by}: {r.reason}" for r in known.refusals]
    return "".join(f"  | {p}" for p in parts)


def _args(node: Node) -> str:
    def text(value: object) -> str:
        if isinstance(value, Node):
            return str(value.target) if value.op == "get_attr" else value.name
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(text, value))}]"
        return str(value)

    named = [f"{k}={text(v)}" for k, v in node.kwargs.items()]
    return ", ".join([*map(text, node.args), *named])


def _shape(node: Node) -> str:
    found = ops.shape(node)
    return "" if found is None else f"  # [{', '.join(map(str, found))}] {ops.dtype_name(node)}"
