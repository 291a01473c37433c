"""Inspection: what the annotated graph says, as rows that can be printed, folded and saved.

print(inspect("llama-3-8b", gpu="h200").code())
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.asked import check_module
from gacfx.core.dims import Dims
from gacfx.core.sites import AttentionSite, CopySite, Execution, Mode, Site, Workload
from gacfx.core.surroundings import plain_torch
from gacfx.core.tiers import COPY
from gacfx.errors import UnsupportedModel
from gacfx.graph.layers import in_layer, layers_of, split_layer
from gacfx.graph.notes import note, sites, state
from gacfx.graph.ops import DTYPES
from gacfx.graph.pipeline import Pipeline
from gacfx.graph.printer import annotated_code, elements_text
from gacfx.hardware.profile import USUAL, Profile, load_profile
from gacfx.tracing import export
from gacfx.tracing.skeleton import read_config, skeleton

MODEL_DTYPES = ("fp32", "bf16", "fp16")
"""What the weights of a model can be asked for in."""


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
    """Why it was left alone."""
    count: int = 1
    """Sites that this row stands for."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """The annotated graph of a model for one workload on one profile."""

    model: str
    profile: Profile
    workload: Workload
    rows: tuple[Row, ...]
    params: int
    graph: GraphModule

    @property
    def latency_us(self) -> float:
        """Forecast for all sites of one step, microseconds; ``profile.forecast`` says of what."""
        return sum(r.latency_us for r in self.rows)

    @property
    def flops(self) -> int:
        """Floating point operations of all sites in one step."""
        return sum(r.flops for r in self.rows)

    @property
    def dims(self) -> Dims:
        """Free sizes and what couples them."""
        dims = state(self.graph).dims
        assert dims is not None
        return dims

    def tiers(self) -> dict[int, tuple[int, float]]:
        """Tier -> (number of sites, share of the FLOPs 0..1), best tier first; no copies."""
        count, work = Counter[int](), Counter[int]()
        for row in (row for row in self.rows if row.kernel != COPY):
            count[row.tier] += row.count
            work[row.tier] += row.flops
        return {t: (count[t], work[t] / max(self.flops, 1)) for t in sorted(count)}

    def folded(self) -> tuple[Row, ...]:
        """Rows with equal layers folded into one."""
        return fold(self.rows)

    def code(self) -> str:
        """The graph as readable text with its notes."""
        return annotated_code(self.graph)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "model": self.model,
            "gpu": self.profile.name,
            "forecast": self.profile.forecast,
            "workload": asdict(self.workload),
            "params": self.params,
            "latency_us": self.latency_us,
            "flops": self.flops,
            "tiers": {
                str(t): {"sites": n, "flops_share": share} for t, (n, share) in self.tiers().items()
            },
            "rows": [asdict(r) for r in self.rows],
        }


def read_rows(gm: GraphModule, workload: Workload) -> tuple[Row, ...]:
    """One row for each site of an annotated graph, in graph order."""
    rows, layers = [], layers_of(gm)
    for node, site in sites(gm):
        known = note(node)
        assert known.tier is not None and known.latency_us is not None
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
                note="; ".join(r.reason for r in known.refusals),
            )
        )
    return tuple(rows)


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
    return split_layer(row.name) if row.layers else ("", "", row.name)


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,5`` for 0, 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@plain_torch()
def capture(
    model: "nn.Module | str | Path", *, seq: int = 1024, dtype: str | None = None
) -> GraphModule:
    """One flat GraphModule: of a module, or of a skeleton made from a path, config or name.

    Args:
        model: a Hugging Face model in eval mode, a checkpoint folder, a config.json, a name.
        seq: tokens of a sequence for which eager attention calls are recorded.
        dtype: fp32, bf16 or fp16, instead of the configuration's own.

    Raises:
        CaptureError: torch.export refuses the model.
        UnsupportedModel: it is no model, or a wrapper of one.
        CheckpointError, UnsupportedModel: nothing readable behind the name; or no such dtype.
    """
    if not isinstance(model, str | Path):
        check_module(model)
    if not isinstance(model, nn.Module):
        model = skeleton(read_config(model), None if dtype is None else torch_dtype(dtype))
    elif dtype is not None:
        raise UnsupportedModel(
            f"{type(model).__name__}: a module has its dtype already; leave out dtype={dtype!r} or "
            "cast the module"
        )
    return export.capture(model, attention_seq=seq)


def torch_dtype(name: str) -> torch.dtype:
    """``torch.float16`` for ``fp16``.

    Raises:
        UnsupportedModel: models are not held in such a dtype.
    """
    if name not in MODEL_DTYPES:
        raise UnsupportedModel(f"no model in dtype {name!r}; take {', '.join(MODEL_DTYPES)}")
    return next(dtype for dtype, short in DTYPES.items() if short == name)


@plain_torch()
def inspect(
    model: "nn.Module | str | Path",
    *,
    gpu: str | Profile = "h200",
    batch: int = 1,
    seq: int = 1024,
    mode: Mode = "prefill",
    execution: Execution = "eager",
    dims: bool = False,
    dtype: str | None = None,
) -> Inspection:
    """The annotated graph: sizes, predicted kernel tiers and forecast latency of every site.

    Works from the configuration alone, without weights and without a GPU.

    Args:
        model: as in :func:`capture`.
        gpu: name of a profile, path of a profile file, or a profile.
        batch: sequences.
        seq: tokens of each sequence in prefill, length of its KV cache in decode.
        mode: ``prefill`` or ``decode``.
        execution: ``eager`` or ``compiled``: attention is called differently.
        dims: also find the coupled dimensions.
        dtype: fp32, bf16 or fp16, instead of the configuration's own.

    Raises:
        ProfileError: no such profile, or its GPU cannot multiply the model's dtype.
        GacError: as :func:`capture`.
    """
    profile = load_profile(gpu)
    workload = Workload(batch, seq, mode, execution)
    gm = capture(model, seq=seq, dtype=dtype)
    if dims:
        Pipeline.parse("couple-dims").run(gm)
    label = type(model).__name__ if isinstance(model, nn.Module) else str(model)
    return annotate_graph(gm, profile, workload, label)


def annotate_graph(gm: GraphModule, profile: Profile, workload: Workload, label: str) -> Inspection:
    """Run the analysis passes on a graph and read the result.

    Raises:
        ProfileError: the GPU cannot multiply the half precision that the model is in.
    """
    Pipeline.parse(pipelines.ANALYSE).bind(profile=profile, workload=workload).run(gm)
    # A model in it would be wrong everywhere; a site in any other dtype is a row in tier 4.
    for dtype in sorted({site.dtype for _, site in sites(gm)}.intersection(USUAL)):
        profile.check_dtype(dtype)
    params = sum(p.numel() for p in gm.parameters())
    return Inspection(label, profile, workload, read_rows(gm, workload), params, gm)
