"""An annotated graph as rows: one for each site, equal layers folded into one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch.fx import GraphModule

from gacfx.core.sites import AttentionSite, CopySite, Layout, MatmulSite, Site, Workload
from gacfx.core.stored_as import StoredAs
from gacfx.graph.layers import in_layer, layers_of, ranges, split_layer
from gacfx.graph.notes import note, sites, state
from gacfx.graph.printer import elements_text


@dataclass(frozen=True, slots=True)
class Row:
    """One site under one workload on one GPU."""

    name: str
    layers: str
    """``7``, or ``0-31`` once folded; empty outside the repeated layers."""
    sizes: str
    """``1024 x 4096 x 1107``, ``32/8 heads x 128``, or ``1024 x 4096`` of a copy."""
    dtype: str
    tier: int
    kernel: str
    reason: str
    latency_us: float
    flops: int
    note: str
    """Why it was left alone, and how its weight is stored."""
    count: int = 1
    """Sites that this row stands for."""
    stored: str = ""
    """How its weight is stored, where another program has quantized it; the end of the note."""

    @property
    def reasons(self) -> str:
        """Why it was left alone; empty where it was not."""
        return self.note.removesuffix(self.stored).removesuffix("; ")


def read_rows(gm: GraphModule, workload: Workload) -> tuple[Row, ...]:
    """One row for each site of an annotated graph, in graph order."""
    rows, layers = [], layers_of(gm)
    for node, site in sites(gm):
        known = note(node)
        assert known.tier is not None and known.latency_us is not None
        stored = stored_text(site, state(gm).stored_as)
        layer = split_layer(site.name)[1] if in_layer(node, layers) else ""
        rows.append(
            Row(
                name=site.name,
                layers=layer,
                sizes=sizes_text(site, workload),
                dtype=site.dtype,
                tier=known.tier.tier,
                kernel=known.tier.kernel,
                reason=known.tier.reason,
                latency_us=known.latency_us,
                flops=site.flops(workload),
                note="; ".join(filter(None, (*(r.reason for r in known.refusals), stored))),
                stored=stored,
            )
        )
    return tuple(rows)


def stored_text(site: Site, stored: StoredAs | None) -> str:
    """``stored as gptq, 4 bits; figures are for bf16``; empty for any other site."""
    quantized = isinstance(site, MatmulSite) and site.layout in _QUANTIZED
    if stored is None or not quantized or not stored.covers(site.name):
        return ""
    return f"stored as {stored}; figures are for {site.dtype}"


_QUANTIZED = (Layout.LINEAR, Layout.CONV1D, Layout.EXPERTS)


def sizes_text(site: Site, workload: Workload) -> str:
    """Sizes in elements: M x K x N, heads and their widths, or what a copy writes."""
    if isinstance(site, AttentionSite):
        width = str(site.d_qk) if site.d_qk == site.d_v else f"{site.d_qk}/{site.d_v}"
        return f"{site.heads_q}/{site.heads_kv} heads x {width}"
    if isinstance(site, CopySite):
        return f"{site.m.at(workload)} x {elements_text(site)}"
    text = " x ".join(map(str, site.sizes(workload)))
    many = site.count.at(workload) if site.experts == 1 else site.experts
    return text if many == 1 else f"{text} ({many})"


def fold(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows that differ in nothing but the layer become one, in order of first appearance.

    Names lose what stands before the layer number, unless there are several stacks of layers.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    prefixes = set()
    for row in rows:
        prefix, layer, rest = _split(row)
        prefixes |= {prefix} if layer else set()
        key = (prefix, rest, row.sizes, row.dtype, row.tier, row.kernel, row.reason, row.note)
        groups.setdefault(key, []).append(row)
    folded = []
    for same in groups.values():
        prefix, layer, name = _split(same[0])
        if layer and len(prefixes) > 1:
            name = f"{prefix}.*.{name}"
        folded.append(
            replace(
                same[0],
                name=name,
                layers=ranges(int(r.layers) for r in same) if layer else "",
                latency_us=sum(r.latency_us for r in same),
                flops=sum(r.flops for r in same),
                count=len(same),
            )
        )
    return tuple(folded)


def _split(row: Row) -> tuple[str, str, str]:
    """As ``split_layer``; experts of a layer go by one name: ``mlp.experts.*.fc1``."""
    if not row.layers:
        return "", "", row.name
    front, layer, rest = split_layer(row.name)
    return front, layer, re.sub(r"\.\d+(?=\.)", ".*", rest)
